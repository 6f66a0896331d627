import dataclasses
import json
import os

import av
import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.commands import visualize
from v2meow_jax.data import visualizer
from v2meow_jax.media import curves
from v2meow_jax.media.audio import write_wav

RATE, FPS = 22050, 12
SMALL = visualizer.VisualizerConfig(width=96, height=54, calm=0)


def time(seconds):
  return np.arange(int(seconds * RATE)) / RATE


def chord(frequencies, seconds, harmonics=6, decay=3.0):
  """Notes struck every half second."""
  t = time(seconds)
  tones = sum(np.sin(2 * np.pi * f * h * t) / h for f in frequencies for h in range(1, harmonics + 1))
  return (0.1 * tones * np.exp(-decay * (t % 0.5))).astype(np.float32)


def swells(seconds=60, step=1.5):
  """Pink-ish noise whose level jumps between -30 and 0 dB; also the level in dB at every frame."""
  rng = np.random.default_rng(7)
  levels = rng.uniform(-30, 0, int(seconds / step))
  t = time(seconds)
  noise = 0.1 * np.convolve(rng.standard_normal(len(t)), np.ones(8) / 3, 'same')
  at_frame = levels[(np.arange(seconds * FPS) / FPS / step).astype(int)]
  return (noise * 10 ** (levels[(t / step).astype(int)] / 20)).astype(np.float32), at_frame


def clicks(seconds=20, tempo=100):
  t = time(seconds)
  beats = np.arange(1, seconds * tempo / 60 - 1) * 60 / tempo
  audio = 0.01 * np.sin(2 * np.pi * 220 * t)
  noise = np.random.default_rng(0).standard_normal(441)
  for beat in beats:
    at = round(beat * RATE)
    audio[at : at + 441] += 0.5 * noise * np.linspace(1, 0, 441)
  return audio.astype(np.float32), beats


def two_sections():
  """17 s of dark C major, then 14 s of bright F sharp major, an octave and a half up."""
  dark = chord([130.8, 164.8, 196.0], 17, harmonics=2, decay=0.5)
  return np.concatenate([dark, chord([370.0, 466.2, 554.4], 14, harmonics=14, decay=0.5)])


def film(audio, config=SMALL):
  analysis = curves.analyse(audio, RATE, config.frame_rate)
  return analysis, np.stack(list(visualizer.render(analysis, config)))


def correlation(a, b):
  return float(np.corrcoef(a, b)[0, 1])


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_motion_and_brightness_follow_loudness(seed):
  audio, level = swells()
  analysis, frames = film(audio, dataclasses.replace(SMALL, seed=seed))
  steady = ~analysis.cuts[1:]
  motion = np.log(np.abs(np.diff(frames.astype(np.float32), axis=0)).mean((1, 2, 3)) + 0.1)[steady]
  light = frames.mean((1, 2, 3))[1:][steady]
  level = level[1:][steady]
  for curve in (motion, light):
    assert correlation(curve, level) > 0.5
    assert abs(correlation(curve, level[::-1])) < 0.3
    assert correlation(curve, level) < 0.98  # loosely, not one to one


@pytest.mark.parametrize('seed', range(4))
def test_calm_films_move_little_and_still_follow_loudness(seed):
  audio, level = swells()
  analysis, frames = film(audio, dataclasses.replace(SMALL, seed=seed, calm=1))
  _, lively = film(audio, dataclasses.replace(SMALL, seed=seed))
  moved = lambda pictures: np.abs(np.diff(pictures.astype(np.float32), axis=0)).mean((1, 2, 3))  # noqa: E731
  assert np.median(moved(frames)) < 0.35 * np.median(moved(lively))
  cut = np.flatnonzero(analysis.cuts)
  steady = np.abs(np.arange(1, len(frames))[:, None] - cut).min(1) > 1 if len(cut) else slice(None)
  motion = np.log(moved(frames) + 0.02)[steady]
  assert correlation(motion, level[1:][steady]) > 0.4
  # Most of the picture stands.
  still = np.median(np.abs(np.diff(frames.astype(np.int16), axis=0)).max(3), axis=0)
  assert (still <= 3).mean() > 0.5


def test_as_many_films_are_calm_as_asked():
  radii = lambda calm: [  # noqa: E731
    visualizer._View.of(np.random.default_rng([0, number, 1]), calm).radius is not None
    for number in range(200)
  ]
  assert not any(radii(0)) and all(radii(1)) and 70 < sum(radii(0.5)) < 130
  with pytest.raises(errors.ConfigError, match='calm is a share'):
    visualizer.VisualizerConfig(calm=1.5)


def test_energy_is_the_level_in_decibels():
  audio, level = swells()
  assert correlation(curves.analyse(audio, RATE).energy, level) > 0.9


def test_brightness_jumps_at_clicks():
  audio, beats = clicks()
  analysis, frames = film(audio)
  at = np.floor(beats * FPS + 1e-6).astype(int)
  strong = np.flatnonzero(analysis.onset > 0.5)
  # An attack that falls at the very end of a frame may be filed under the next.
  assert all(np.abs(strong - frame).min() <= 1 for frame in at)
  assert all(np.abs(at - frame).min() <= 1 for frame in strong)

  light = frames.mean((1, 2, 3))
  jumps = np.array([light[f : f + 2].max() - light[f - 1] for f in at])
  assert (jumps > 0).mean() > 0.9
  others = np.setdiff1d(np.arange(2, len(light)), np.concatenate([at, at + 1]))
  elsewhere = np.abs(np.diff(light))[others - 1]
  assert jumps.mean() > 3 * elsewhere.mean()


@pytest.mark.parametrize('seed', [0, 1])
def test_the_scene_is_cut_where_the_section_changes(seed):
  analysis, frames = film(two_sections(), dataclasses.replace(SMALL, seed=seed))
  assert np.abs(np.flatnonzero(analysis.cuts) / FPS - 17).min() < 0.5
  histograms = np.stack(
    [np.concatenate([np.histogram(f[..., c], 16, (0, 256))[0] for c in range(3)]) for f in frames]
  )
  change = np.abs(np.diff(histograms, axis=0)).sum(1)
  cut = 1 + int(np.argmax(change))
  assert abs(cut / FPS - 17) < 0.5
  before, after = analysis.timbre[: 16 * FPS], analysis.timbre[18 * FPS :]
  assert after.mean() > before.mean() + 0.4


def test_sections_last_from_4_to_30_seconds():
  rng = np.random.default_rng(3)
  parts = [chord(rng.uniform(100, 900, 3), s) for s in (1.5, 2, 9, 3, 40, 2, 2, 20, 75)]
  for audio in (np.concatenate(parts), parts[-1]):
    cuts = np.flatnonzero(curves.analyse(audio, RATE).cuts)
    lengths = np.diff([0, *cuts, len(audio) / RATE * FPS]) / FPS
    assert lengths.min() >= 4 and lengths.max() <= 30


def test_hue_tells_keys_apart():
  c_major, f_sharp = (
    curves.analyse(chord(np.array([1, 1.26, 1.498]) * root, 4), RATE) for root in (261.6, 370.0)
  )
  apart = np.abs((c_major.hue[10:-10] - f_sharp.hue[10:-10] + 0.5) % 1 - 0.5)
  assert apart.mean() > 0.4  # opposite on the circle of fifths, half a turn
  assert c_major.clarity.mean() > 0.5


def test_the_same_input_gives_the_same_frames():
  audio = two_sections()
  assert np.array_equal(film(audio)[1], film(audio.copy())[1])


def test_seeds_and_tracks_differ():
  audio = two_sections()
  first = film(audio)[1].astype(int)
  reseeded = film(audio, dataclasses.replace(SMALL, seed=1))[1]
  assert np.abs(first - reseeded).mean() > 10
  other = film(audio * np.float32(0.9))[1]  # the same curves, but another track
  assert np.abs(first - other).mean() > 10


@pytest.mark.parametrize('samples', [1, 1000, 5 * RATE])
def test_silence_and_scraps(samples):
  analysis, frames = film(np.zeros(samples, np.float32))
  assert len(frames) == max(1, round(samples / RATE * FPS)) and frames.shape[1:] == (54, 96, 3)
  for name in ('energy', 'onset', 'timbre', 'hue', 'clarity'):
    curve = getattr(analysis, name)
    assert curve.dtype == np.float32 and np.isfinite(curve).all() and curve.min() >= 0 and curve.max() <= 1
  assert not analysis.energy.any() and not analysis.onset.any()


@pytest.mark.parametrize('audio', [np.zeros(0), np.zeros((2, 50)), np.array([0, np.nan])])
def test_audio_that_cannot_be_analysed(audio):
  with pytest.raises(errors.InputError, match='audio to analyse'):
    curves.analyse(audio, RATE)


@pytest.mark.parametrize('setting', [{'frame_rate': 0}, {'width': 95}, {'height': 8}, {'seed': -1}])
def test_bad_settings(setting):
  with pytest.raises(errors.ConfigError):
    visualizer.VisualizerConfig(**setting)


def test_frame_rates_must_agree():
  analysis = curves.analyse(chord([440], 1), RATE, 25)
  with pytest.raises(errors.InputError, match='25 frames'):
    next(visualizer.render(analysis, SMALL))


@pytest.mark.parametrize('mux_audio', [True, False])
@pytest.mark.parametrize('seconds', [3.0, 4.53])
def test_the_video_is_as_long_as_the_audio(tmp_path, seconds, mux_audio):
  sound = chord([220, 277], seconds)
  write_wav(tmp_path / 'a.wav', sound, RATE)
  visualizer.visualize(tmp_path / 'a.wav', tmp_path / 'a.mp4', SMALL, mux_audio)
  assert sorted(os.listdir(tmp_path)) == ['a.mp4', 'a.wav']
  with av.open(str(tmp_path / 'a.mp4')) as container:
    assert 'procedural' in container.metadata['comment']
    video = container.streams.video[0]
    assert (video.codec_context.name, video.width, video.height) == ('h264', 96, 54)
    assert abs(float(video.duration * video.time_base) - seconds) <= 1 / FPS
    assert len(container.streams.audio) == mux_audio
    if mux_audio:
      stream = container.streams.audio[0]
      assert abs(float(stream.duration * stream.time_base) - seconds) < 0.05
    pictures = [frame.to_ndarray(format='rgb24') for frame in container.decode(video)]
  assert len(pictures) == round(seconds * FPS)
  assert np.std(pictures[10]) > 5
  if mux_audio:
    heard, _ = visualizer.media_audio.load_audio(tmp_path / 'a.mp4', RATE)
    length = min(len(heard), len(sound))
    assert correlation(heard[:length, 0], sound[:length]) > 0.95  # in time, to well under a period


def test_a_missing_file(tmp_path):
  with pytest.raises(errors.MediaError):
    visualize.main(['--audio', str(tmp_path / 'none.wav'), '--out', str(tmp_path / 'a.mp4')])
  assert os.listdir(tmp_path) == []


def test_one_file(tmp_path):
  write_wav(tmp_path / 'a.wav', chord([220], 1), RATE)
  assert visualize.main(['--audio', str(tmp_path / 'a.wav'), '--out', str(tmp_path / 'a.mp4')]) == 0
  assert (tmp_path / 'a.mp4').stat().st_size > 1000


def run(manifest, out, *options):
  return visualize.main(
    ['--manifest', str(manifest), '--out', str(out), '--width', '64', '--height', '36', *options]
  )


def read(path):
  return [json.loads(line) for line in path.read_text('utf-8').splitlines()]


def test_a_manifest_with_bad_rows(tmp_path, capsys):
  for name in 'ab':
    write_wav(tmp_path / f'{name}.wav', chord([220, 330], 2), RATE)
  (tmp_path / 'noise.wav').write_bytes(b'not audio at all')
  good = {'id': 'a', 'audio': 'a.wav', 'title': 'Étude', 'licence': 'CC0', 'split': 'train'}
  lines = [
    json.dumps(good),
    '{"id": "torn", ',
    json.dumps({'id': 'gone', 'audio': 'gone.wav'}),
    json.dumps({'id': 'noise', 'audio': 'noise.wav'}),
    json.dumps({'id': '../up', 'audio': 'a.wav'}),
    json.dumps({'id': 'a', 'audio': 'b.wav'}),
    json.dumps({'id': 'silent'}),
    '',
    json.dumps({'id': 'b', 'audio': str(tmp_path / 'b.wav')}),
  ]
  (tmp_path / 'music.jsonl').write_text('\n'.join(lines), 'utf-8')
  out = tmp_path / 'out'
  assert run(tmp_path / 'music.jsonl', out, '--workers', '2') == 0
  assert '2 videos, 6 rows rejected' in capsys.readouterr().out
  assert sorted(os.listdir(out)) == ['a.mp4', 'b.mp4', 'manifest.jsonl', 'rejected.jsonl']
  first, second = read(out / 'manifest.jsonl')
  added = {'audio': str(tmp_path / 'a.wav'), 'video': str(out / 'a.mp4'), 'pairing': 'procedural'}
  assert first == {**good, **added}
  assert second['id'] == 'b'
  rejected = read(out / 'rejected.jsonl')
  assert [row.get('id') for row in rejected] == [None, '../up', 'a', 'silent', 'gone', 'noise']
  assert all(row['reason'] for row in rejected) and not any('pairing' in row for row in rejected)

  # A second run makes only what is missing, and the same again.
  kept, made = (out / 'a.mp4').stat().st_mtime_ns, (out / 'b.mp4').read_bytes()
  (out / 'b.mp4').unlink()
  assert run(tmp_path / 'music.jsonl', out) == 0
  assert (out / 'a.mp4').stat().st_mtime_ns == kept and (out / 'b.mp4').read_bytes() == made
  assert len(read(out / 'manifest.jsonl')) == 2


def test_manifests_that_cannot_be_used(tmp_path):
  path = tmp_path / 'manifest.jsonl'
  with pytest.raises(errors.DatasetError, match='no such'):
    run(path, tmp_path / 'out')
  path.write_text('\n')
  with pytest.raises(errors.DatasetError, match='no rows'):
    run(path, tmp_path / 'out')
  path.write_text('{"id": "a", "audio": "gone.wav"}\n')
  with pytest.raises(errors.DatasetError, match='replace'):
    run(path, tmp_path)
  assert run(path, tmp_path / 'out') == 1
