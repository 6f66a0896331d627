"""`v2meow prepare` on real files: streams, resumption, bad rows, and what may not be mixed."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from v2meow_jax import errors, terminal
from v2meow_jax.commands import prepare
from v2meow_jax.data import dataset, finishing, making, preparation, records
from v2meow_jax.data import table as table_lib
from v2meow_jax.encoders.motion import MotionEncoder
from v2meow_jax.encoders.waveform import WaveformEncoder
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream

pytest.importorskip('tensorflow_datasets', reason='part of the extra "train"')


@pytest.fixture(scope='module')
def manifest(tmp_path_factory, demo_clip):
  """Two films (one real, with its own sound), two pieces of sound, and three rows that cannot be used."""
  folder = tmp_path_factory.mktemp('media')
  shutil.copy(demo_clip, folder / 'film.mp4')
  shutil.copy(demo_clip, folder / 'other.mp4')
  tone = 0.3 * np.sin(np.arange(8000 * 31) * 0.2).astype(np.float32)
  soundfile.write(folder / 'tone.wav', tone, 8000)
  (folder / 'broken.mp4').write_bytes((folder / 'film.mp4').read_bytes()[:20000])
  rows = [
    {'id': 'film', 'video': 'film.mp4', 'licence': 'CC-BY-3.0', 'caption': 'a rabbit'},
    {'id': 'dubbed', 'video': 'other.mp4', 'audio': 'tone.wav'},
    {'id': 'gone', 'video': 'gone.mp4'},
    {'id': 'broken', 'video': 'broken.mp4'},
  ]
  path = folder / 'manifest.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows) + '{oops\n')
  return path


def run(*arguments):
  return terminal.run(prepare.main, [str(argument) for argument in arguments])


@pytest.fixture(scope='module')
def prepared(manifest, tmp_path_factory):
  out = tmp_path_factory.mktemp('prepared') / 'ds'
  streams = '--streams=video/motion,audio/waveform'
  settings = ('--sample_rate=8000', '--clip_seconds=10', '--workers=2')
  assert run('--manifest', manifest, '--out', out, streams, *settings) == 0
  return out


def content(directory):
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in sorted(directory.rglob('*'))
    if path.is_file() and path.name != 'rejected.jsonl'
  }


def test_every_clip_is_what_its_encoder_makes_of_it(prepared):
  for encoder in (MotionEncoder(), WaveformEncoder(8000)):
    for split in table_lib.SPLITS:
      data = dataset.Dataset(prepared, split, (encoder.stream,))
      for number, clip in enumerate(data.clips):
        expected = encoder.encode_clip(MediaClip(clip.video, clip.audio, clip.start, clip.duration))
        found = data.read(encoder.stream, number)
        np.testing.assert_array_equal(found, expected.astype(encoder.stream.dtype))


def test_clips_are_cut_and_sources_kept_together(prepared):
  clips = table_lib.read_clips(prepared)
  assert [clip.id for clip in clips] == [f'{name}-000{n}' for name in ('film', 'dubbed') for n in range(3)]
  assert {clip.source: clip.split for clip in clips}.keys() == {'film', 'dubbed'}
  assert len({(clip.source, clip.split) for clip in clips}) == 2
  assert clips[0].licence == 'CC-BY-3.0' and clips[0].caption == 'a rabbit'


def test_bad_rows_are_reported_and_do_not_stop_the_rest(prepared):
  rows = [json.loads(line) for line in (prepared / 'rejected.jsonl').read_text().splitlines()]
  assert [row.get('id') for row in rows] == ['gone', None, 'broken']
  assert 'does not exist' in rows[0]['reason'] and 'not JSON' in rows[1]['reason']
  assert 'broken.mp4' in rows[2]['reason']


def test_a_lost_shard_is_made_again_and_nothing_else(prepared, tmp_path):
  copy = shutil.copytree(prepared, tmp_path / 'copy')
  before = content(copy)
  entries = json.loads((copy / 'streams.json').read_text())
  del entries['audio/waveform']
  (copy / 'streams.json').write_text(json.dumps(entries))
  stream = WaveformEncoder(8000).stream
  folder = copy / stream.name / records.VERSION
  records.shard_path(folder, stream, 'train', 0, 1).write_bytes(b'half')
  times = {path: path.stat().st_mtime_ns for path in (copy / 'video').rglob('*')}
  assert run('--out', copy, '--streams=audio/waveform', '--sample_rate=8000', '--workers=1') == 0
  after = content(copy)
  after['streams.json'] = before['streams.json']  # indented and sorted by the writer either way
  assert after == before
  assert {path: path.stat().st_mtime_ns for path in (copy / 'video').rglob('*')} == times


class Flaky:
  """An encoder that cannot read one clip."""

  needs = 'audio'
  stream = Stream('audio/flaky', 'embedding', 2, 1)
  identity = {'encoder': 'flaky'}  # noqa: RUF012

  def encode_clip(self, clip):
    if clip.start == 10:
      raise errors.MediaError('this clip is beyond it')
    return np.ones((20, 1))


def test_a_clip_that_an_encoder_fails_on_keeps_its_place(prepared, tmp_path):
  copy = shutil.copytree(prepared, tmp_path / 'copy')
  count, rejected = preparation.prepare_streams(copy, [Flaky()], processes=1)
  assert count == 6 and len(rejected) == 2
  for split in table_lib.SPLITS:
    data = dataset.Dataset(copy, split, (Flaky.stream, MotionEncoder().stream))
    assert [data.length(Flaky.stream, n) for n in range(3)] == [20, 0, 20]
  told = [json.loads(line) for line in (copy / 'rejected.jsonl').read_text().splitlines()]
  assert [row['stream'] for row in told if 'stream' in row] == ['audio/flaky'] * 2


def refused(capsys, *arguments):
  assert run(*arguments) == 2
  error = capsys.readouterr().err
  assert 'Traceback' not in error
  return error


def test_what_does_not_belong_together_is_refused(prepared, manifest, tmp_path, capsys):
  def told(*arguments):
    return refused(capsys, '--out', prepared, '--workers=1', *arguments)

  assert 'made by another encoder' in told('--streams=audio/waveform', '--sample_rate=4000')
  assert 'another manifest' in told('--manifest', manifest, '--clip_seconds=7')
  assert "'audio/smell' is not one of" in told('--streams=audio/smell')
  assert 'needs --bundle' in told('--streams=audio/acoustic')
  assert 'no clips.jsonl' in refused(capsys, '--out', tmp_path / 'none')
  assert 'no such manifest' in refused(capsys, '--out', tmp_path / 'x', '--manifest', tmp_path / 'no.jsonl')
  empty = tmp_path / 'empty.jsonl'
  empty.write_text('')
  assert 'the manifest has no rows' in refused(capsys, '--out', tmp_path / 'x', '--manifest', empty)
  assert not (tmp_path / 'x').exists()


def test_a_bundles_encoders_make_its_streams(prepared, small_bundle, tmp_path):
  copy = shutil.copytree(prepared, tmp_path / 'copy')
  streams = '--streams=audio/semantic,audio/acoustic'
  assert run('--out', copy, streams, '--bundle', small_bundle, '--workers=1') == 0
  from v2meow_jax import bundles

  codec = bundles.load(small_bundle).codec()
  data = dataset.Dataset(copy, 'train', (codec.stream,))
  clip = data.clips[0]
  np.testing.assert_array_equal(
    data.read(codec.stream, 0), codec.encode_clip(MediaClip(None, clip.audio, clip.start, clip.duration))
  )
  assert data.identity(codec.stream) == json.loads(json.dumps(codec.identity))


def test_tfds_reads_what_the_encoders_made(prepared):
  tfds = pytest.importorskip('tensorflow_datasets')
  for encoder in (MotionEncoder(), WaveformEncoder(8000)):
    builder = tfds.builder_from_directory(str(prepared / encoder.stream.name / records.VERSION))
    clips = table_lib.read_clips(prepared)
    for split in {clip.split for clip in clips}:
      rows = list(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))
      members = [clip for clip in clips if clip.split == split]
      assert [row['id'].decode() for row in rows] == [clip.id for clip in members]
      assert builder.info.splits[split].num_examples == len(members)
      for row, clip in zip(rows, members, strict=True):
        expected = encoder.encode_clip(MediaClip(clip.video, clip.audio, clip.start, clip.duration))
        np.testing.assert_array_equal(row['elements'], expected.astype(encoder.stream.dtype))


def table(tmp_path, seconds=25):
  """A dataset of five clips of 5 s of silence, without streams; clips start at 0, 5, 10, ..."""
  soundfile.write(tmp_path / 'a.wav', np.zeros(1000 * seconds, np.float32), 1000)
  path = tmp_path / 'm.jsonl'
  path.write_text(json.dumps({'id': 'a', 'audio': 'a.wav'}) + '\n')
  preparation.make_table(path, tmp_path / 'ds', clip_seconds=5, validation_share=0)
  return tmp_path / 'ds'


class Given:
  """An encoder that calls a function of the clip."""

  needs = 'audio'

  def __init__(self, stream, function):
    self.stream, self.function, self.identity = stream, function, {'encoder': 'given', 'name': stream.name}

  def encode_clip(self, clip):
    return self.function(clip)


COUNT = Stream('audio/count', 'tokens', 1, 1, 100)


def numbers(clip):
  return np.arange(5)[:, None] + int(clip.start)


def prepare_count(directory, function):
  return preparation.prepare_streams(
    directory, [Given(COUNT, function)], processes=1, clips_a_part=2, shard_bytes=1
  )


def test_an_interrupted_preparation_goes_on_to_the_same_bytes(tmp_path):
  for name in ('whole', 'cut'):
    (tmp_path / name).mkdir()
  whole, cut = table(tmp_path / 'whole'), table(tmp_path / 'cut')
  prepare_count(whole, numbers)

  def fail(clip):
    if clip.start == 15:
      raise KeyboardInterrupt
    return numbers(clip)

  with pytest.raises(KeyboardInterrupt):
    prepare_count(cut, fail)
  assert not (cut / 'streams.json').exists()
  folder = cut / COUNT.name / 'parts'
  done = {path: path.stat().st_mtime_ns for path in folder.glob('train-00000*')}
  assert len(done) == 2 and not list(folder.glob('train-00001*'))
  encoded = []

  def watched(clip):
    encoded.append(clip.start)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    return numbers(clip)

  prepare_count(cut, watched)
  assert encoded == [10, 15, 20]
  after = content(cut)
  assert after.keys() == content(whole).keys() - {'rejected.jsonl'}
  for name, data in content(whole).items():
    if name != 'clips.jsonl' and not name.startswith('index/'):  # hold the path of the sound
      assert after[name] == data, name


@pytest.mark.parametrize('damage', ['lost', 'short', 'index'])
def test_a_finished_stream_with_a_damaged_shard_is_repaired(tmp_path, damage):
  directory = table(tmp_path)
  prepare_count(directory, numbers)
  before = content(directory)
  shard = next((directory / COUNT.name).rglob('*00001-of-00003'))
  if damage == 'index':
    next((directory / COUNT.name).rglob('*.index.npy')).write_bytes(b'nothing')
  elif damage == 'short':
    shard.write_bytes(shard.read_bytes()[:60])
  else:
    shard.unlink()
  encoded = []
  prepare_count(directory, lambda clip: encoded.append(clip.start) or numbers(clip))
  assert content(directory) == before
  assert encoded == ([0, 5, 10, 15, 20] if damage == 'index' else [10, 15])


def test_shares_made_apart_and_twice_are_the_dataset_made_at_once(tmp_path):
  for name in ('whole', 'shared'):
    (tmp_path / name).mkdir()
  whole, shared = table(tmp_path / 'whole'), table(tmp_path / 'shared')
  prepare_count(whole, numbers)
  encoder, sizes = Given(COUNT, numbers), {'clips_a_part': 2}
  making.make_parts(shared, [encoder], processes=1, share=(1, 2), **sizes)
  with pytest.raises(errors.DatasetError, match='2 of 3 parts of stream audio/count are missing'):
    finishing.finish(shared, [encoder], shard_bytes=1, **sizes)
  making.make_parts(shared, [encoder], processes=1, share=(0, 2), **sizes)
  making.make_parts(shared, [encoder], processes=1, share=(1, 2), **sizes)
  for _ in range(2):
    assert finishing.finish(shared, [encoder], shard_bytes=1, **sizes) == 5
  assert not (shared / COUNT.name / 'parts').exists()
  mine, theirs = content(shared / COUNT.name), content(whole / COUNT.name)
  assert mine == theirs


def test_a_shard_is_as_many_parts_as_its_bytes_say(tmp_path):
  directory = table(tmp_path)
  made = [Given(COUNT, numbers), Given(Stream('audio/wide', 'embedding', 1, 3), lambda c: np.ones((5, 3)))]
  # A clip has 10 and 30 bytes of elements, a part 20 and 60.
  preparation.prepare_streams(directory, made, processes=1, clips_a_part=2, shard_bytes=60)
  entries = dataset.read_streams(directory)
  assert {name: entry['clips_a_shard'] for name, entry in entries.items()} == {
    'audio/count': 6,
    'audio/wide': 2,
  }
  data = dataset.Dataset(directory, 'train', tuple(encoder.stream for encoder in made))
  for clip in range(5):
    np.testing.assert_array_equal(data.read(COUNT, clip)[:, 0], np.arange(5) + 5 * clip)
    assert data.read(made[1].stream, clip).shape == (5, 3)


def test_clips_rejected_before_an_interruption_are_told_after_it(tmp_path):
  directory, interrupted = table(tmp_path), []

  def fail(clip):
    if clip.start == 0:
      raise errors.MediaError('the first is beyond it')
    if clip.start == 15 and not interrupted:
      interrupted.append(True)
      raise KeyboardInterrupt
    return numbers(clip)

  with pytest.raises(KeyboardInterrupt):
    prepare_count(directory, fail)
  prepare_count(directory, fail)
  assert dataset.Dataset(directory, 'train', (COUNT,)).length(COUNT, 0) == 0
  assert 'the first is beyond it' in (directory / 'rejected.jsonl').read_text()


def test_naming_the_manifest_again_keeps_what_was_rejected(tmp_path):
  directory = table(tmp_path)

  def fail(clip):
    raise errors.MediaError('all are beyond it')

  prepare_count(directory, fail)
  before = (directory / 'rejected.jsonl').read_text()
  assert before.count('all are beyond it') == 5
  table(tmp_path)
  prepare_count(directory, fail)
  assert (directory / 'rejected.jsonl').read_text() == before


@pytest.mark.parametrize(
  ('stream', 'value'),
  [
    (Stream('video/large', 'embedding', 1, 1), 1e5),
    (COUNT, -1),
    (COUNT, 70000),
    (COUNT, 100),
  ],
  ids=['beyond float16', 'negative', 'beyond uint16', 'beyond its codes'],
)
@pytest.mark.filterwarnings('ignore:overflow:RuntimeWarning')
def test_elements_that_a_record_cannot_hold_are_rejected(tmp_path, stream, value):
  directory = table(tmp_path)
  made = Given(stream, lambda clip: np.full((5, 1), value))
  _, rejected = preparation.prepare_streams(directory, [made], processes=1)
  assert len(rejected) == 5
