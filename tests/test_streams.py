from fractions import Fraction

import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.streams import Stream, crop

RATES = [Fraction(1), Fraction(4), Fraction(25), Fraction(75, 2), Fraction(24000, 512), Fraction(1, 3)]


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    (('audio/semantic', 'tokens', 'fast', 1, 16), 'rate'),
    (('audio/semantic', 'tokens', None, 1, 16), 'rate'),
    (('audio/semantic', 'tokens', '1/0', 1, 16), 'rate'),
    (('audio/semantic', 'tokens', float('nan'), 1, 16), 'rate'),
    (('audio/semantic', 'tokens', float('inf'), 1, 16), 'rate'),
    (('audio/semantic', 'tokens', -1, 1, 16), 'negative'),
    (('audio semantic', 'tokens', 25, 1, 16), 'path'),
    (('audio//semantic', 'tokens', 25, 1, 16), 'path'),
    (('', 'tokens', 25, 1, 16), 'path'),
    (('-', 'tokens', 25, 1, 16), 'path'),
    (('a', 'words', 25, 1), 'embedding, tokens, audio'),
    (('a', 'embedding', 25, 0), 'width 0'),
    (('a', 'tokens', 25, 1, 1), 'between 2 and 65536'),
    (('a', 'tokens', 25, 1, 65537), 'between 2 and 65536'),
    (('a', 'embedding', 25, 1, 16), 'only tokens have codes'),
    (('a', 'audio', 25, 1, 16), 'only tokens have codes'),
  ],
)
def test_a_wrong_setting_is_refused_in_one_sentence_that_names_the_stream(settings, words):
  with pytest.raises(errors.ConfigError) as caught:
    Stream(*settings)
  message = str(caught.value)
  assert words in message
  assert repr(settings[0]) in message
  assert '\n' not in message and '. ' not in message


@pytest.mark.parametrize('codes', [2, 65536])
def test_the_smallest_and_largest_vocabularies_fit_a_record(codes):
  stream = Stream('a', 'tokens', 1, 1, codes)
  assert stream.dtype.type(codes - 1) == codes - 1


@pytest.mark.parametrize(
  ('given', 'rate'), [('75/2', (75, 2)), (0.5, (1, 2)), (25, (25, 1)), ('0.1', (1, 10))]
)
def test_a_rate_is_an_exact_fraction(given, rate):
  assert Stream('a', 'embedding', given).rate == Fraction(*rate)


@pytest.mark.parametrize('rate', RATES)
def test_length_and_index_are_the_nearest_whole_elements(rate):
  stream = Stream('a', 'embedding', rate)
  for numerator in range(1, 400, 17):
    seconds = Fraction(numerator, 17)
    distance = [abs(n / rate - seconds) for n in range(1 + int(seconds * rate) + 1)]
    assert distance.count(min(distance)) == 1  # seventeenths of a second: never a tie
    assert stream.length(seconds) == stream.index(seconds) == distance.index(min(distance))


def test_length_does_not_drift_over_hours():
  # 44100 / 1024 Hz for 10 h: float32 arithmetic would be off by whole elements.
  stream = Stream('a', 'embedding', Fraction(44100, 1024))
  assert stream.length(36000) == 1550391  # 1550390.625
  assert stream.index(Fraction(1550391 * 1024, 44100)) == 1550391


def test_a_stream_of_rate_zero_is_one_element_at_the_start():
  stream = Stream('video/style', 'embedding', 0, 3)
  assert [stream.length(s) for s in (0, 1, 1000)] == [1, 1, 1]
  assert [stream.index(s) for s in (0, 1, 1000)] == [0, 0, 0]


def test_bits_per_second_is_rate_times_levels_times_bits_of_a_code():
  assert Stream('a', 'tokens', Fraction(75, 2), 8, 1024).bits_per_second() == pytest.approx(3000)
  assert Stream('a', 'tokens', 25, 1, 3).bits_per_second() == pytest.approx(25 * np.log(3) / np.log(2))
  with pytest.raises(errors.ConfigError, match='no bit rate'):
    Stream('a', 'embedding', 25).bits_per_second()


def reader(elements):
  calls = []

  def read(first, stop):
    calls.append((first, stop))
    return elements[first:stop]

  return read, calls


@pytest.mark.parametrize(
  ('kind', 'codes', 'dtype'), [('embedding', 0, np.float32), ('tokens', 50, np.int32), ('audio', 0, np.int16)]
)
@pytest.mark.parametrize('rate', [Fraction(4), Fraction(75, 2)])
def test_crop_is_what_a_loop_over_elements_finds(kind, codes, dtype, rate):
  stream = Stream('some/stream', kind, rate, 2, codes)
  clip = 5  # seconds
  total = stream.length(clip)
  rng = np.random.default_rng(0)
  elements = rng.integers(1, 50, (total, 2)).astype(stream.dtype)
  for start in (
    Fraction(0),
    Fraction(3, 10),
    Fraction(2),
    Fraction(7, 2),
    Fraction(49, 10),
    Fraction(91, 10),
  ):
    seconds = Fraction(2)
    read, calls = reader(elements)
    result = crop(stream, read, start, seconds)
    first = min(range(400), key=lambda i: abs(i / rate - start))
    length = int(seconds * rate)
    expected, mask = np.zeros((length, 2)), np.zeros(length, bool)
    for i in range(length):
      if first + i < total:
        expected[i], mask[i] = elements[first + i], True
    assert result.keys() == {'some/stream', 'some/stream/mask', 'some/stream/offset'}
    assert result['some/stream'].dtype == dtype
    np.testing.assert_array_equal(result['some/stream'], expected)
    np.testing.assert_array_equal(result['some/stream/mask'], mask)
    assert calls == [(first, first + length)]
    # float32 holds a time of seconds to a few ulp.
    assert result['some/stream/offset'] == pytest.approx(float(first / rate - start), abs=1e-6)
    assert result['some/stream/offset'].dtype == np.float32


def test_the_offset_is_negative_where_the_first_element_starts_before_the_crop():
  read, _ = reader(np.ones((40, 1)))
  stream = Stream('a', 'embedding', 4)
  early = crop(stream, read, Fraction(3, 10), Fraction(1))  # element 1 starts at 0.25 s
  late = crop(stream, read, Fraction(2, 10), Fraction(1))
  # float32 rounding only.
  assert early['a/offset'] == pytest.approx(-0.05, abs=1e-7)
  assert late['a/offset'] == pytest.approx(0.05, abs=1e-7)


def test_a_stream_of_rate_zero_gives_its_one_element_to_every_crop():
  elements = np.array([[1.0, 2.0, 3.0]])
  read, calls = reader(elements)
  for start in (Fraction(0), Fraction(37, 3)):
    result = crop(Stream('a', 'embedding', 0, 3), read, start, Fraction(10))
    np.testing.assert_array_equal(result['a'], elements)
    np.testing.assert_array_equal(result['a/mask'], [True])
    assert result['a/offset'] == 0
  assert calls == [(0, 1), (0, 1)]
