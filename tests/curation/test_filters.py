"""Each filter by measures that are made up, and the gin files that name them."""

import dataclasses
import math

import numpy as np
import pytest

from v2meow_jax.curation import filters, pictures, sound
from v2meow_jax.curation.filters import Candidate
from v2meow_jax.curation.measuring import Measured
from v2meow_jax.curation.scenes import Scenes
from v2meow_jax.data.spans import Span

SPAN = Span(0.0, 20.0, 'a.mp4', 'a.mp4', 640, 360, 25.0, 44100, 2)


def heard(powers, probabilities=()):
  """A candidate of as many tenths of a second, whose channels have the same power."""
  powers = np.asarray(powers, np.float32)
  empty = b''
  spoken = sound.Speech(np.round(255 * np.asarray(probabilities)).astype(np.uint8).tobytes())
  told = sound.Sound((2 * powers).tobytes(), powers.tobytes(), empty, empty)
  return Candidate('a', 'a', 0.0, len(powers) / 10, SPAN, Measured(SPAN, told, spoken))


def seen(changes, bars=((0, 0, 0, 0),)):
  changes, bars = np.asarray(changes, np.float16), np.asarray(bars, np.uint8)
  looks = np.zeros(len(bars))
  told = pictures.Pictures(
    changes.tobytes(), looks.astype(np.uint64).tobytes(), looks.astype(np.uint8).tobytes(), bars.tobytes()
  )
  return Candidate('a', 'a', 0.0, 20.0, SPAN, Measured(SPAN, pictures=told))


def test_silence_counts_what_lies_below_the_floor():
  half = [1e-2] * 50 + [1e-9] * 50
  assert filters.Silence(most=0.5).reason(heard(half)) == ''
  assert filters.Silence(most=0.49).reason(heard(half)) == '50% silent (below -60 dB)'


def test_loudness_is_that_of_the_standard():
  # A K-weighted mean square of 1 is -0.691 LUFS.
  assert heard([0.5] * 40).loudness == pytest.approx(-0.691, abs=1e-5)
  assert heard([0] * 40).loudness == -math.inf
  assert filters.Loudness().reason(heard([0.5] * 40)) == '-0.7 LUFS, not -45 to -3'
  assert 'inf LUFS' in filters.Loudness().reason(heard([0] * 40))


def test_speech_is_a_share_of_the_time():
  candidate = heard([0.1] * 64, [0.9] * 150 + [0.1] * 50)
  assert filters.Speech(most=0.8).reason(candidate) == ''
  assert filters.Speech(most=0.7).reason(candidate) == '75% speech'


def test_static_pictures_and_bars():
  assert filters.Static(most=0.9).reason(seen([0, *[0.1] * 80, *[5] * 9])) == ''
  assert (
    filters.Static(most=0.89).reason(seen([0, *[0.1] * 81, *[5] * 9]))
    == 'pictures stand still 90% of the time'
  )
  # A bar is what is black all the time: 6 of 36 rows at the top and bottom.
  wide = seen([1], [(255, 255, 255, 255), (6, 6, 0, 0), (20, 6, 3, 0), (7, 9, 0, 0)])
  assert filters.Bars(most=0.3).reason(wide) == '33% of the picture is black bars'
  assert filters.Bars(most=0.34).reason(wide) == ''
  assert filters.Bars().reason(seen([1], [(255,) * 4])) == 'all of the picture is black'


def test_length_and_aspect_judge_what_the_file_is():
  row = Candidate('a', 'a', 0.0, 20.0, SPAN, Measured(SPAN))
  assert filters.Length(10, 30).reason(row) == filters.Aspect(0.5, 2.5).reason(row) == ''
  assert filters.Length(30, 40).reason(row) == '20.0 s long, not 30 to 40 s'
  tall = dataclasses.replace(row, span=Span(0.0, 20.0, 'a', None, 90, 360))
  assert filters.Aspect().reason(tall) == '90 x 360 pixels, width by height not 0.5 to 2.5'


def test_what_a_clip_lacks_is_no_reason():
  bare = Candidate('a', 'a', 0.0, 20.0, Span(0.0, 20.0, None, None), Measured(Span(0.0, 20.0, None, None)))
  for kind in (
    filters.Silence,
    filters.Loudness,
    filters.Speech,
    filters.Static,
    filters.Bars,
    filters.Aspect,
  ):
    assert kind().reason(bare) == ''


def test_a_candidate_sees_its_own_part_of_the_measures():
  powers = np.repeat(np.arange(20, dtype=np.float32), 10)
  whole = heard(powers)
  part = dataclasses.replace(whole, begin=5.0, seconds=3.0)
  assert set(part.powers) == {5, 6, 7}


def test_a_cut_stands_out_from_what_is_around_it():
  changes = np.full(160, 2.0)
  changes[[40, 121]] = 40, 25
  changes[60:100] = 30  # a whirl: as much change all the time is no cut
  assert Scenes().bounds(seen(changes).measured) == [5.0, 15.125]
