"""`v2meow codec`: files to codes and back, bad input in a sentence, and the report."""

import json
import pathlib
import re

import av
import numpy as np
import pytest
import small
import soundfile

from v2meow_jax import bundles, cli
from v2meow_jax.evaluation import codec_report


@pytest.fixture(scope='module')
def codec():
  return small.make_codec()


@pytest.fixture(scope='module')
def sound(codec):
  rng, time = np.random.default_rng(0), np.arange(3 * codec.sample_rate) / codec.sample_rate
  tones = sum(np.sin(2 * np.pi * f * time + f) for f in (220, 331, 1250))
  return (0.1 * tones + 0.05 * rng.standard_normal(len(time))).astype(np.float32)[:, None]


def wav(path, sound, rate, subtype='FLOAT'):
  soundfile.write(str(path), sound, rate, subtype=subtype)
  return path


def run(capsys, *arguments):
  status = cli.main(['codec', *map(str, arguments)])
  return status, capsys.readouterr()


def refused(capsys, *arguments):
  status, told = run(capsys, *arguments)
  assert status == 2 and len(told.err.strip().splitlines()) == 1, told.err
  return told.err


def test_a_file_becomes_codes_and_audio_as_the_codec_makes_them(
  small_bundle, codec, sound, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr('v2meow_jax.codec.codec.BLOCK_SECONDS', 1)
  source = wav(tmp_path / 'a.wav', sound[:-7], codec.sample_rate)
  status, told = run(capsys, 'encode', source, '--bundle', small_bundle)
  assert status == 0 and 'kbit/s' in told.out and not told.err
  with np.load(tmp_path / 'a.npz') as stored:
    codes = stored['codes']
  own = bundles.load_codec(small_bundle)
  wanted = own.encode(sound[:-7])
  assert codes.dtype == np.uint16 and np.mean(codes == wanted) > 0.99  # ties by float32 sums
  status, _ = run(capsys, 'decode', tmp_path / 'a.npz', '--bundle', small_bundle, '--out', tmp_path / 'b.wav')
  made, rate = soundfile.read(str(tmp_path / 'b.wav'), always_2d=True)
  assert status == 0 and rate == codec.sample_rate and len(made) == len(sound) - 7
  heard = np.clip(own.decode(codes.astype(int))[: len(made)], -1, 1)
  np.testing.assert_allclose(made, heard, atol=2**-14)  # 16-bit
  assert sorted(path.name for path in tmp_path.iterdir()) == ['a.npz', 'a.wav', 'b.wav']


def test_fewer_levels_are_the_first_ones(small_bundle, codec, sound, tmp_path, capsys):
  source = wav(tmp_path / 'a.wav', sound, codec.sample_rate)
  for levels, name in ((None, 'all'), (1, 'one')):
    more = [] if levels is None else ['--levels', levels]
    assert (
      run(capsys, 'encode', source, '--bundle', small_bundle, '--out', tmp_path / f'{name}.npz', *more)[0]
      == 0
    )
  with np.load(tmp_path / 'all.npz') as whole, np.load(tmp_path / 'one.npz') as one:
    np.testing.assert_array_equal(one['codes'], whole['codes'][:, :1])
  assert run(capsys, 'decode', tmp_path / 'one.npz', '--bundle', small_bundle)[0] == 0
  assert '--levels=99: the codec has 1 to' in refused(
    capsys, 'encode', source, '--bundle', small_bundle, '--levels', 99
  )


def test_another_rate_or_number_of_channels_is_converted_with_a_notice_or_refused(
  small_bundle, codec, sound, tmp_path, capsys
):
  source = wav(tmp_path / 'a.wav', np.repeat(sound, 2, 1), 2 * codec.sample_rate)
  with pytest.warns(UserWarning, match=r'Hz, 2 channel\(s\); the codec takes .* so it is converted'):
    assert run(capsys, 'encode', source, '--bundle', small_bundle)[0] == 0
  with np.load(tmp_path / 'a.npz') as stored:
    assert len(stored['codes']) == -(-len(sound) // 2 // codec.hop)
  (tmp_path / 'a.npz').unlink()
  assert 'convert it, or leave out --strict' in refused(
    capsys, 'encode', source, '--bundle', small_bundle, '--strict'
  )
  assert not (tmp_path / 'a.npz').exists()


def test_bad_audio_is_told_in_a_sentence_and_leaves_nothing(small_bundle, codec, sound, tmp_path, capsys):
  rate, broken = codec.sample_rate, sound.copy()
  broken[5000] = np.nan
  for name, content, told in (
    ('silent', np.zeros_like(sound), 'is silent from beginning to end'),
    ('nan', broken, 'not finite'),
  ):
    source = wav(tmp_path / f'{name}.wav', content, rate)
    assert told in refused(capsys, 'encode', source, '--bundle', small_bundle)
  (tmp_path / 'text.wav').write_text('not sound')
  assert 'text.wav' in refused(capsys, 'encode', tmp_path / 'text.wav', '--bundle', small_bundle)
  assert 'missing.wav' in refused(capsys, 'encode', tmp_path / 'missing.wav', '--bundle', small_bundle)
  assert not list(tmp_path.glob('*.npz*')) and not list(tmp_path.glob('.*'))


def test_codes_that_are_none_or_anothers_are_refused(small_bundle, codec, sound, tmp_path, capsys):
  source = wav(tmp_path / 'a.wav', sound, codec.sample_rate)
  assert run(capsys, 'encode', source, '--bundle', small_bundle)[0] == 0
  with np.load(tmp_path / 'a.npz') as stored:
    codes, about = stored['codes'], json.loads(str(stored['about']))

  def stored_as(codes, about):
    np.savez(tmp_path / 'other.npz', codes=codes, about=json.dumps(about))
    return refused(capsys, 'decode', tmp_path / 'other.npz', '--bundle', small_bundle)

  assert 'codes reach from 0 to 60000' in stored_as(np.full_like(codes, 60000) * (codes > 0), about)
  assert 'codes of shape' in stored_as(codes[:, 0], about)
  assert 'made by another codec' in stored_as(codes, about | {'identity': {'sha256': '0'}})
  assert 'not codes as' in stored_as(codes, {})
  (tmp_path / 'cut.npz').write_bytes((tmp_path / 'a.npz').read_bytes()[:100])
  assert 'not codes as' in refused(capsys, 'decode', tmp_path / 'cut.npz', '--bundle', small_bundle)
  assert 'no.npz' in refused(capsys, 'decode', tmp_path / 'no.npz', '--bundle', small_bundle)
  assert not list(tmp_path.glob('*.wav.*')) and not (tmp_path / 'other.wav').exists()


def test_bfloat16_is_offered_only_where_it_is_near_enough(
  small_bundle, codec, sound, tmp_path, capsys, monkeypatch
):
  source = wav(tmp_path / 'a.wav', sound, codec.sample_rate)
  assert run(capsys, 'encode', source, '--bundle', small_bundle)[0] == 0
  arguments = ('decode', tmp_path / 'a.npz', '--bundle', small_bundle, '--bfloat16')
  monkeypatch.setattr(codec_report, 'BFLOAT16_LIMIT', 200.0)
  told = refused(capsys, *arguments)
  ratio = float(re.search(r'then ([\d.]+) dB', told)[1])
  # Eight bits of significand: no layer is nearer than some 50 dB, and many layers are farther.
  assert 15 < ratio < 60
  monkeypatch.setattr(codec_report, 'BFLOAT16_LIMIT', ratio - 1)
  assert run(capsys, *arguments)[0] == 0
  made, _ = soundfile.read(str(tmp_path / 'a.wav'), always_2d=True)
  assert len(made) == len(sound)


def mute_video(path):
  with av.open(str(path), 'w') as out:
    stream = out.add_stream('mpeg4', rate=10)
    stream.width, stream.height, stream.pix_fmt = 32, 16, 'yuv420p'
    for frame in [*(av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8)) for _ in range(10)), None]:
      out.mux(stream.encode(frame))


@pytest.mark.slow
def test_the_report_measures_as_its_parts_do(small_bundle, codec, sound, tmp_path, capsys, monkeypatch):
  small_model = codec_report.causal.Recipe(layers=1, width=16, mlp=16, steps=20, check=10)
  monkeypatch.setattr(codec_report, 'MODEL', small_model)
  folder = tmp_path / 'music'
  folder.mkdir()
  wav(folder / 'a.wav', sound, codec.sample_rate)
  wav(folder / 'b.wav', sound[::-1], codec.sample_rate)
  wav(folder / 'silent.wav', np.zeros_like(sound), codec.sample_rate)
  mute_video(folder / 'mute.mp4')
  out = tmp_path / 'out'
  with pytest.warns(UserWarning, match='passed over') as warned:
    status, told = run(
      capsys, 'report', '--bundle', small_bundle, '--audio', folder, '--out', out, '--seconds', 2
    )
  assert status == 0 and 'Opus 6 kbit/s' in told.out
  passed = (str(w.message) for w in warned if 'passed over' in str(w.message))
  assert sorted(pathlib.Path(text.split(':')[0]).name for text in passed) == ['mute.mp4', 'silent.wav']
  report = json.loads((out / 'report.json').read_text())
  assert report['clips'] == ['a', 'b'] and report['seconds'] == pytest.approx(4, abs=0.01)
  ways = {point['name']: point for point in report['points']}
  levels = codec.stream.width
  assert {'1 level', f'{levels} levels', 'Opus 24 kbit/s'} <= set(ways)
  rate = codec.sample_rate
  clips = [part[rate // 2 : rate // 2 + 2 * rate] for part in (sound, sound[::-1])]
  own = bundles.load_codec(small_bundle)
  # Files hold float32, so all that differs is how sums are ordered.
  wanted = np.mean(
    [codec_report.measure(own.decode(own.encode(x))[: len(x)], x, rate)['si_sdr'] for x in clips]
  )
  assert ways[f'{levels} levels']['measures']['si_sdr'] == pytest.approx(wanted, abs=0.1)
  bits = float(own.stream.rate) * np.log2(own.stream.codes)
  assert ways['1 level']['bit_rate'] == pytest.approx(bits)
  # Opus at four times the rate is nearer, and no rate is missed by far.
  assert ways['Opus 24 kbit/s']['measures']['si_sdr'] > ways['Opus 6 kbit/s']['measures']['si_sdr'] + 3
  assert ways['Opus 24 kbit/s']['bit_rate'] == pytest.approx(24000, rel=0.3)
  assert not all(report['answer'].values())  # random weights
  assert set(report['agreement']) == {*codec_report.invariance.changes(codec.hop), 'by chance'}
  # As many levels of so many codes, so many frames a second, each code as likely as any other.
  uniform = float(own.stream.rate) * levels * np.log(own.stream.codes)
  assert report['nats']['uniform']['nats_a_second'] == pytest.approx(uniform)
  assert report['nats']['causal']['nats_a_second'] < 2 * uniform and 'nats a second' in told.out
  page = (out / 'index.html').read_text()
  for name in re.findall(r'src="([^"]+)"', page):
    assert (out / name).stat().st_size > 1000
  assert 'It is not, or not well, trained.' in page
  assert page.count('<audio') == 2 * (len(codec_report.level_counts(levels)) + 2)


def test_a_sampled_rate_is_a_filter_and_a_perfect_copy_has_no_distance(sound, codec):
  rate = codec.sample_rate
  low = codec_report.lowered(sound, rate, 8)
  spectrum = np.abs(np.fft.rfft(low[:, 0])) ** 2
  above = int(1.1 * len(spectrum) / 8)
  assert spectrum[above:].sum() < 1e-4 * spectrum.sum()
  same = codec_report.measure(sound, sound, rate)
  assert same['log_mel'] == same['stft'] == 0 and same['si_sdr'] > 60
  assert codec_report.signal_to_noise(1.01 * sound, sound) == pytest.approx(40, abs=1e-3)
