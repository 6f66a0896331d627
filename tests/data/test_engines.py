"""Reading here and encoding there gives the records of doing all in one place, and decodes only once."""

import json
import shutil

import numpy as np
import pytest

from v2meow_jax import bundles, errors
from v2meow_jax.data import engines, finishing, making, parts, preparation, records
from v2meow_jax.encoders import base
from v2meow_jax.encoders.motion import MotionEncoder
from v2meow_jax.encoders.waveform import WaveformEncoder
from v2meow_jax.media import frames
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream

pytest.importorskip('tensorflow_datasets', reason='part of the extra "train"')


@pytest.fixture(scope='module')
def media(tmp_path_factory, demo_clip):
  """A table of six clips of a film and of one that is cut off."""
  folder = tmp_path_factory.mktemp('engines')
  shutil.copy(demo_clip, folder / 'film.mp4')
  (folder / 'mute.mp4').write_bytes((folder / 'film.mp4').read_bytes())
  rows = [{'id': 'film', 'video': 'film.mp4', 'end': 9}, {'id': 'mute', 'video': 'mute.mp4', 'end': 9}]
  (folder / 'm.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  preparation.make_table(
    folder / 'm.jsonl', folder / 'ds', clip_seconds=3, least_seconds=1, validation_share=0
  )
  (folder / 'mute.mp4').write_bytes(b'gone bad')
  return folder / 'ds'


@pytest.fixture(scope='module')
def encoders(small_bundle):
  return [MotionEncoder(), WaveformEncoder(8000), bundles.load(small_bundle).codec()]


def content(directory):
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in sorted(directory.rglob('*'))
    if path.is_file() and path.name not in ('clips.jsonl', 'table.json')
  }


def made(media, encoders, out, engine=None):
  directory = shutil.copytree(media, out)
  rejected = making.make_parts(directory, encoders, processes=1, clips_a_part=2, engine=engine)
  finishing.finish(directory, encoders, clips_a_part=2)
  return content(directory), rejected


def apart(directory, encoders, jobs):
  reader, writer = engines.Reader(directory, encoders), engines.Writer(directory, encoders)
  return (writer.write(job, reader.read(job)) for job in jobs)


def test_two_halves_make_the_same_bytes_and_reasons(media, encoders, tmp_path):
  whole, rejected = made(media, encoders, tmp_path / 'whole')
  halves, again = made(media, encoders, tmp_path / 'halves', apart)
  assert halves == whole and again == rejected
  assert len(rejected) == 9 and all('mute.mp4' in row['reason'] for row in rejected)


@pytest.mark.slow
def test_worker_processes_read_for_this_one(media, encoders, tmp_path):
  def engine(directory, encoders, jobs):
    return engines.local(directory, encoders, jobs, 2, apart=True)

  assert made(media, encoders, tmp_path / 'apart', engine)[0] == made(media, encoders, tmp_path / 'whole')[0]


class Still:
  """An encoder that looks at one picture a second."""

  needs = 'video'
  stream = Stream('video/still', 'embedding', 1, 3)
  identity = {'encoder': 'still'}  # noqa: RUF012
  readings = (frames.Reading(1, (16, 16)),)

  def encode_clip(self, clip):
    return np.stack([picture.mean((0, 1)) for picture in clip.frames(1, (16, 16))])


def test_a_video_is_decoded_once_for_all_its_encoders(demo_clip, monkeypatch):
  opened = []
  real = frames.read_several
  monkeypatch.setattr(frames, 'read_several', lambda *given: opened.append(given[1]) or real(*given))
  both = [MotionEncoder(), Still(), Still()]
  alone = [encoder.encode_clip(MediaClip(str(demo_clip), None, 2.0, 3.0)) for encoder in both]
  assert len(opened) == 3
  readings = tuple(reading for encoder in both for reading in base.readings(encoder))
  clip = MediaClip(str(demo_clip), None, 2.0, 3.0, '', readings)
  for encoder, expected in zip(both, alone, strict=True):
    np.testing.assert_array_equal(encoder.encode_clip(clip), expected)
  assert len(opened) == 4 and len(opened[3]) == 2
  assert not clip._cache  # nothing is kept once all have it


def test_no_more_is_read_ahead_than_memory_is_meant_for(media, encoders, monkeypatch):
  jobs = [(part, [encoder.stream.name for encoder in encoders]) for part in parts.parts_of(media, 2)]
  assert engines.ahead(media, encoders, jobs, 8) == 16
  monkeypatch.setattr(
    engines, 'AHEAD_BYTES', 3 * 2 * 3 * 4 * 48000
  )  # three parts of two clips of 3 s of sound
  assert engines.ahead(media, encoders, jobs, 8) == 3


def test_an_encoder_that_cannot_be_used_ends_it(media, tmp_path):
  class Unusable(Still):
    def read_clip(self, clip):
      raise errors.ConfigError('its weights are not there')

    def encode_read(self, clips, read):
      raise AssertionError

  with pytest.raises(errors.ConfigError):
    made(media, [Unusable()], tmp_path / 'x', apart)
  assert not list((tmp_path / 'x').rglob('*.tfrecord*'))
  assert records.VERSION
