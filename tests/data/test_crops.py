"""Crops that span clips, exclusion lists and streams that a dataset lacks."""

import itertools
import json
import shutil
from fractions import Fraction

import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.data import order, preparation, table
from v2meow_jax.data.batches import ClipBatches
from v2meow_jax.data.crops import CropSource, Reading
from v2meow_jax.data.dataset import Dataset
from v2meow_jax.streams import Stream

pytest.importorskip('tensorflow_datasets', reason='part of the extra "train"')

SLOW = Stream('video/slow', 'embedding', 4, 1)
FAST = Stream('audio/fast', 'tokens', 25, 1, 60000)
WHOLE = Stream('audio/whole', 'embedding', 0, 1)
LACKING = Stream('video/lacking', 'embedding', 2, 3)


class Clock:
  """Elements that say when in their source they are, in quarters and twenty-fifths of a second."""

  def __init__(self, stream):
    self.stream, self.identity = stream, {'encoder': 'clock', 'stream': stream.name}

  def encode_clip(self, clip):
    if not self.stream.rate:
      return np.full((1, 1), clip.start)
    return self.stream.index(clip.start) + np.arange(self.stream.length(clip.duration))[:, None]


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  """A film of three clips, 4 + 4 + 2 s; one with a hole between its clips; one alone, of another licence."""
  path = tmp_path_factory.mktemp('clips')
  clips = [
    *[
      table.Clip(f'film-{n}', 'film', 4.0 * n, 2.0 if n == 2 else 4.0, 'train', audio='film')
      for n in range(3)
    ],
    *[table.Clip(f'hole-{n}', 'hole', 6.0 * n, 4.0, 'train', audio='hole') for n in range(2)],
    table.Clip('alone-0', 'alone', 0.0, 8.0, 'train', audio='alone', licence='CC-BY-NC-4.0'),
  ]
  table.write(path, clips)
  made = [Clock(stream) for stream in (SLOW, FAST, WHOLE)]
  preparation.prepare_streams(path, made, processes=1, clips_a_part=2, shard_bytes=1)
  return path


def source(directory, streams=(SLOW, FAST, WHOLE), seconds=5, **reading):
  data = Dataset(directory, 'train', streams, reading.get('may_lack', ()))
  return CropSource(data, Fraction(seconds), 3, Reading(**reading))


def test_adjoining_clips_are_known(directory):
  clips = table.ClipTable(directory, 'train')
  assert clips.columns['adjoins'].tolist() == [True, True, False, False, False, False]
  assert list(clips) == list(clips.all()) == table.read_clips(directory)


def test_a_crop_goes_on_in_the_next_clip_of_its_source(directory):
  crops = source(directory, across_clips=True)
  rows = list(crops.dataset.clips)
  starts = set()
  for n in range(300):
    clip, start = crops.place(n)
    example = crops[n]
    row = rows[clip]
    # What there is from the start on: to the end of the film, or of the clip.
    end = 10 if row.source == 'film' else row.start + row.duration
    for stream in (SLOW, FAST):
      first = stream.index(row.start) + stream.index(start)
      expected = np.arange(first, stream.index(end))[: stream.length(5)]
      np.testing.assert_array_equal(example[stream.name][: len(expected), 0], expected)
      assert example[f'{stream.name}/mask'].sum() == len(expected)
    assert example[WHOLE.name][0, 0] == row.start
    starts.add((row.id, float(start)))
  # Every moment from which a whole crop lies in the film, once.
  film = {time + float(name[-1]) * 4 for name, time in starts if name.startswith('film')}
  assert film == set(np.arange(0, 5.25, 0.25)) | {8.0}
  np.testing.assert_allclose(crops.covered(), [5, 5, 2, 4, 4, 5])
  # The second clip can begin one from which the film goes on for 5 s; the third cannot.
  assert {time for name, time in starts if name == 'film-1'} == set(np.arange(0, 1.25, 0.25))


def test_without_it_nothing_is_read_beyond_the_clip(directory):
  crops = source(directory)
  for n in range(60):
    clip, start = crops.place(n)
    length = crops[n][f'{SLOW.name}/mask'].sum()
    assert length == 4 * min(5, crops.dataset.clips[clip].duration - start)
  np.testing.assert_allclose(crops.covered(), [4, 4, 2, 4, 4, 5])
  batches = ClipBatches(str(directory), (SLOW,), Fraction(5), 2)
  assert batches.padding() == pytest.approx(1 - 23 / 30)


@pytest.mark.parametrize(
  ('line', 'left'),
  [
    ({'id': 'film-1'}, [0, 2, 3, 4, 5]),
    ({'source': 'hole'}, [0, 1, 2, 5]),
    ({'licence': 'CC-BY-NC-4.0'}, [0, 1, 2, 3, 4]),
  ],
)
def test_what_a_list_names_is_never_read(directory, tmp_path, line, left):
  path = tmp_path / 'exclude.jsonl'
  path.write_text(json.dumps(line) + '\n')
  crops = source(directory, exclude=str(path))
  assert len(crops) == len(left)
  for epoch in range(3):
    seen = [crops.place(n)[0] for n in range(epoch * len(left), (epoch + 1) * len(left))]
    assert sorted(seen) == left
  settings = {'dataset_dir': str(directory), 'streams': (SLOW,), 'crop_seconds': Fraction(5), 'batch_size': 2}
  plain, less = ClipBatches(**settings), ClipBatches(**settings, reading=Reading(exclude=str(path)))
  assert plain.fingerprint() != less.fingerprint()


def test_streams_that_are_not_read_may_be_added(directory, tmp_path):
  copy = shutil.copytree(directory, tmp_path / 'ds')
  settings = {'dataset_dir': str(copy), 'crop_seconds': Fraction(5), 'batch_size': 2}
  before = ClipBatches(**settings, streams=(SLOW,)).fingerprint()
  told = json.loads((copy / 'streams.json').read_text())
  (copy / 'streams.json').write_text(
    json.dumps(told | {'audio/new': told[SLOW.name] | {'name': 'audio/new'}})
  )
  assert ClipBatches(**settings, streams=(SLOW,)).fingerprint() == before
  told[SLOW.name]['made_by'] = {'encoder': 'another'}
  (copy / 'streams.json').write_text(json.dumps(told))
  assert ClipBatches(**settings, streams=(SLOW,)).fingerprint() != before


@pytest.mark.parametrize(
  ('text', 'told'),
  [
    ('{"source": "film"}\n{"sauce": "x"}\n', 'line 2: "sauce" is not known here'),
    ('{"source": "film", "id": "x"}\n', 'line 1: it does not name one of'),
    ('{"source": "film"}\n{"source": "hole"}\n{"source": "alone"}\n', 'all 6 clips are left out'),
    ('', 'has no rows'),
  ],
)
def test_a_list_that_is_not_understood_is_refused(directory, tmp_path, text, told):
  path = tmp_path / 'exclude.jsonl'
  path.write_text(text)
  with pytest.raises(errors.DatasetError, match=told):
    source(directory, exclude=str(path))


def test_a_stream_that_may_lack_is_masked(directory):
  with pytest.raises(errors.DatasetError, match="no stream 'video/lacking'"):
    source(directory, (SLOW, LACKING))
  example = source(directory, (SLOW, LACKING), may_lack=(LACKING.name,))[0]
  assert not example[f'{LACKING.name}/mask'].any() and example[LACKING.name].shape == (10, 3)
  assert example[f'{SLOW.name}/mask'].any()


def test_a_table_without_columns_is_read_as_one_with(directory, tmp_path):
  (tmp_path / 'clips.jsonl').write_bytes((directory / 'clips.jsonl').read_bytes())
  for split in table.SPLITS:
    one, other = table.ClipTable(directory, split), table.ClipTable(tmp_path, split)
    np.testing.assert_array_equal(one.columns, other.columns)
  assert table.digest(directory) == table.digest(tmp_path)
  # Columns of another table do not count.
  lines = (directory / 'clips.jsonl').read_text().splitlines(keepends=True)
  table.write_columns(tmp_path)
  (tmp_path / 'clips.jsonl').write_text(''.join(lines[1:]))
  assert [clip.id for clip in table.ClipTable(tmp_path, 'train')] == [
    json.loads(line)['id'] for line in lines[1:]
  ]


def test_reading_ahead_changes_nothing(directory, monkeypatch):
  batches = ClipBatches(str(directory), (SLOW, FAST), Fraction(3), 4, seed=2)
  plain = list(itertools.islice(batches.start(3), 9))
  monkeypatch.setattr(ClipBatches, 'at_once', 7)
  ahead = list(itertools.islice(batches.start(3), 9))
  for one, other in zip(plain, ahead, strict=True):
    for name in one:
      np.testing.assert_array_equal(one[name], other[name])
  assert order.permutation(0, 0, 10).dtype == np.uint32
