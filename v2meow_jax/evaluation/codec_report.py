"""Is this codec trained? Its quality against bit rate on real audio, beside lines that anyone can judge."""

import dataclasses
import functools
import html
import io
import json
import pathlib
import warnings
from fractions import Fraction

import av
import jax
import jax.numpy as jnp
import numpy as np
import soxr

from v2meow_jax import description, errors, files, terminal
from v2meow_jax.codec import losses, quantizer
from v2meow_jax.codec.codec import Codec
from v2meow_jax.evaluation import causal, cost, invariance
from v2meow_jax.media import audio as audio_files
from v2meow_jax.media import probe

OPUS_RATES = (6000, 8000, 12000, 16000, 24000)  # bits a second; libopus goes no lower than the first
MEASURES = {
  'log_mel': 'log-mel distance (less is better)',
  'stft': 'multi-resolution STFT distance (less is better)',
  'si_sdr': 'SI-SDR, dB (more is better)',
}
COSTS = ('uniform', 'unigram', 'bigram', 'causal')
MODEL = causal.STANDARD  # with which tokens are scored; the same for all codecs
BFLOAT16_LIMIT = 40.0  # dB
AUDIO_SUFFIXES = ('.wav', '.flac', '.ogg', '.opus', '.mp3', '.m4a', '.mp4', '.mkv', '.webm', '.mov')


@dataclasses.dataclass(frozen=True)
class Point:
  """A way to carry the sound: its name, bits a second, and means over the clips of each measure."""

  name: str
  kind: str
  bit_rate: float
  measures: dict[str, float]


def measure(ours: np.ndarray, theirs: np.ndarray, sample_rate: int) -> dict[str, float]:
  """The measures of one clip; [samples, channels] each."""
  made, wanted = jnp.asarray(ours.T), jnp.asarray(theirs.T)
  return {
    'log_mel': float(losses.log_mel_distance(made, wanted, sample_rate)),
    'stft': float(losses.multi_resolution_stft(made, wanted)),
    'si_sdr': float(jnp.mean(losses.si_sdr(made, wanted))),
  }


def opus(audio: np.ndarray, sample_rate: int, bit_rate: int) -> tuple[np.ndarray, float]:
  """(the audio after Opus, bits a second that its packets had), by FFmpeg's libopus."""
  wide = soxr.resample(audio, sample_rate, 48000, 'HQ') if sample_rate != 48000 else audio
  file, layout, size = io.BytesIO(), 'mono' if audio.shape[1] == 1 else 'stereo', 0
  with av.open(file, 'w', format='ogg') as out:
    stream = out.add_stream('libopus', rate=48000, layout=layout)
    stream.bit_rate = bit_rate
    frames = []
    for at in range(0, len(wide), 960):
      block = np.ascontiguousarray(np.clip(wide[at : at + 960].reshape(1, -1), -1, 1).astype(np.float32))
      frame = av.AudioFrame.from_ndarray(block, format='flt', layout=layout)
      frame.sample_rate, frame.pts, frame.time_base = 48000, at, Fraction(1, 48000)
      frames.append(frame)
    for frame in [*frames, None]:
      for packet in stream.encode(frame):
        size += packet.size
        out.mux(packet)
  file.seek(0)
  with av.open(file, 'r') as container:
    decoded = [frame.to_ndarray() for frame in container.decode(audio=0)]
  channels = audio.shape[1]
  sound = np.concatenate([x.T if len(x) == channels else x.reshape(-1, channels) for x in decoded])
  back = soxr.resample(sound, 48000, sample_rate, 'HQ') if sample_rate != 48000 else sound
  back = np.pad(back, ((0, max(0, len(audio) - len(back))), (0, 0)))[: len(audio)]
  return back.astype(np.float32), 8 * size / (len(audio) / sample_rate)


def lowered(audio: np.ndarray, sample_rate: int, factor: int) -> np.ndarray:
  """The audio as if it had been sampled at 1/factor of its rate."""
  back = soxr.resample(
    soxr.resample(audio, sample_rate, sample_rate / factor, 'HQ'), sample_rate / factor, sample_rate, 'HQ'
  )
  return np.pad(back, ((0, max(0, len(audio) - len(back))), (0, 0)))[: len(audio)].astype(np.float32)


def signal_to_noise(ours: np.ndarray, theirs: np.ndarray) -> float:
  """Power of `theirs` over that of the difference, dB."""
  noise = np.sum((ours.astype(np.float64) - theirs) ** 2)
  return float(10 * np.log10(np.sum(theirs.astype(np.float64) ** 2) / max(noise, 1e-30)))


def bfloat16_quality(codec: Codec, codes: np.ndarray) -> float:
  """Signal-to-noise ratio of decoding in bfloat16 against float32, dB."""
  return signal_to_noise(codec.with_dtype('bfloat16').decode(codes), codec.decode(codes))


def level_counts(levels: int) -> list[int]:
  """Numbers of levels that are measured: powers of two and all."""
  return sorted({2**k for k in range(levels.bit_length()) if 2**k <= levels} | {levels})


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
  return {name: float(np.mean([row[name] for row in rows])) for name in MEASURES}


def investigate(codec: Codec, clips: dict[str, np.ndarray]) -> tuple[dict, dict[str, dict[str, np.ndarray]]]:
  """Measures a codec on clips.

  Args:
    codec: which.
    clips: audio at its rate, [samples, channels], by name.

  Returns:
    The report, JSON values, and what was made of each clip, by clip and way.
  """
  rate, per_level = codec.sample_rate, float(codec.stream.rate) * np.log2(codec.stream.codes)
  codes = {name: codec.encode(sound) for name, sound in clips.items()}
  sounds: dict[str, dict[str, np.ndarray]] = {name: {'original': sound} for name, sound in clips.items()}
  points = []

  def add(name: str, kind: str, make) -> None:
    rows, rates = [], []
    for clip, sound in clips.items():
      sounds[clip][name], bits = make(clip, sound)
      rows.append(measure(sounds[clip][name], sound, rate))
      rates.append(bits)
    points.append(Point(name, kind, float(np.mean(rates)), _mean(rows)))

  for count in level_counts(codec.stream.width):
    name = f'{count} level{"s" * (count > 1)}'
    add(
      name,
      'codec',
      lambda clip, sound, n=count: (codec.decode(codes[clip][:, :n])[: len(sound)], n * per_level),
    )
  for bit_rate in OPUS_RATES:
    add(f'Opus {bit_rate // 1000} kbit/s', 'Opus', lambda clip, sound, b=bit_rate: opus(sound, rate, b))
  for factor in (2, 4, 8):
    add(
      f'{rate / factor / 1000:g} kHz',
      'lower rate',
      lambda clip, sound, f=factor: (lowered(sound, rate, f), 0.0),
    )
  share, perplexity = jax.device_get(
    quantizer.usage(jnp.concatenate(list(codes.values())), codec.stream.codes)
  )
  ratio = bfloat16_quality(codec, next(iter(codes.values())))
  with terminal.Progress(quiet=True) as progress:
    agreement = invariance.agreement(codec, clips, functools.partial(progress.update, 'agreement'))
    learnt, held_out = cost.split(codes)
    steps = functools.partial(progress.update, 'causal model')
    nats = cost.nats_a_second(codec.stream, learnt, held_out, recipe=MODEL, progress=steps)
  report = {
    'codec': description.describe(codec.config),
    'seconds': sum(map(len, clips.values())) / rate,
    'clips': list(clips),
    'points': [dataclasses.asdict(point) for point in points],
    'frames': int(sum(map(len, codes.values()))),
    'usage': [float(x) for x in share],
    'perplexity': [float(x) for x in perplexity],
    'bfloat16_snr': ratio,
    'agreement': agreement,
    'nats': nats,
  }
  return report | {'answer': answer(report)}, sounds


def answer(report: dict) -> dict[str, bool]:
  """What a trained codec does, and whether this one does it."""
  own = [point['measures'] for point in report['points'] if point['kind'] == 'codec']
  low = [point['measures'] for point in report['points'] if point['kind'] == 'lower rate'][-1]
  return {
    'all levels are nearer in log-mel than one': own[-1]['log_mel'] < 0.95 * own[0]['log_mel'],
    'nearer in log-mel than the input at an eighth of its rate': own[-1]['log_mel'] < low['log_mel'],
    'at least half of the codes of each level occur': min(report['usage']) >= 0.5,
  }


def write(directory: pathlib.Path, codec: Codec, clips: dict[str, np.ndarray]) -> dict:
  """Writes `index.html`, `report.json`, pictures and sounds; the report."""
  report, sounds = investigate(codec, clips)
  directory.mkdir(parents=True, exist_ok=True)
  _draw_quality(directory / 'quality.png', report)
  _draw_usage(directory / 'usage.png', report)
  for n, (_, made) in enumerate(sounds.items()):
    shown = {name: made[name] for name in _shown(report)}
    _draw_spectrograms(directory / f'clip_{n}.png', shown, codec.sample_rate)
    for way, sound in shown.items():
      audio_files.write_wav(directory / _sound_name(n, way), sound, codec.sample_rate)
  files.write_text(directory / 'report.json', json.dumps(report, indent=2) + '\n')
  files.write_text(directory / 'index.html', _page(report))
  return report


def _shown(report: dict) -> list[str]:
  own = [point['name'] for point in report['points'] if point['kind'] == 'codec']
  return ['original', *own, f'Opus {OPUS_RATES[0] // 1000} kbit/s']


def _sound_name(clip: int, way: str) -> str:
  return f'clip_{clip}_{way.replace(" ", "_").replace("/", "_")}.wav'


def _figure(*args, **kwargs):
  import matplotlib

  matplotlib.use('agg')
  from matplotlib import pyplot

  return pyplot.subplots(*args, layout='constrained', **kwargs)


def _save(figure, path: pathlib.Path) -> None:
  from matplotlib import pyplot

  with files.replaced_when_done(path) as temporary:
    figure.savefig(temporary, dpi=90, format='png')
  pyplot.close(figure)


def _draw_quality(path: pathlib.Path, report: dict) -> None:
  figure, panels = _figure(1, len(MEASURES), figsize=(14, 4))
  for panel, (name, label) in zip(panels, MEASURES.items(), strict=True):
    for kind in ('codec', 'Opus'):
      points = [point for point in report['points'] if point['kind'] == kind]
      x, y = [p['bit_rate'] / 1000 for p in points], [p['measures'][name] for p in points]
      panel.plot(x, y, 'o-', label=kind)
    for n, point in enumerate(p for p in report['points'] if p['kind'] == 'lower rate'):
      panel.axhline(point['measures'][name], color='grey', linestyle=':', linewidth=1 + 0.5 * n)
      place = (1, point['measures'][name])
      told = {'ha': 'right', 'va': 'bottom', 'fontsize': 8, 'color': 'grey'}
      panel.annotate(f'input at {point["name"]}', place, xycoords=('axes fraction', 'data'), **told)
    panel.set_xlabel('kbit/s')
    panel.set_xscale('log')
    panel.set_ylabel(label)
    panel.legend()
  _save(figure, path)


def _draw_usage(path: pathlib.Path, report: dict) -> None:
  figure, (left, right) = _figure(1, 2, figsize=(10, 3))
  levels = np.arange(len(report['usage']))
  left.bar(levels, 100 * np.asarray(report['usage']))
  left.set(xlabel='level', ylabel='codes that occur, %', ylim=(0, 100), xticks=levels)
  right.bar(levels, report['perplexity'])
  right.axhline(report['codec']['quantizer']['codes'], color='grey', linestyle=':', label='codes of a level')
  right.set(xlabel='level', ylabel='perplexity', xticks=levels)
  right.legend()
  _save(figure, path)


def _draw_spectrograms(path: pathlib.Path, sounds: dict[str, np.ndarray], sample_rate: int) -> None:
  figure, panels = _figure(len(sounds), 1, figsize=(12, 1.9 * len(sounds)), sharex=True)
  for panel, (name, sound) in zip(np.atleast_1d(panels), sounds.items(), strict=True):
    signal = sound.mean(1) + 1e-6 * np.random.default_rng(0).standard_normal(len(sound))
    panel.specgram(signal, NFFT=1024, Fs=sample_rate, noverlap=768, cmap='magma', vmin=-120)
    panel.set_ylabel(name, fontsize=8)
  np.atleast_1d(panels)[-1].set_xlabel('time (s)')
  _save(figure, path)


def _page(report: dict) -> str:
  """The report as HTML; figures and sounds are files beside it."""
  told = html.escape
  points = ''.join(
    f'<tr><td>{told(p["name"])}</td><td>{told(p["kind"])}</td>'
    f'<td>{p["bit_rate"] / 1000:.2f}</td>'
    + ''.join(f'<td>{p["measures"][m]:.3f}</td>' for m in MEASURES)
    + '</tr>'
    for p in report['points']
  )
  answers = ''.join(
    f'<li>{"yes" if yes else "no"}: {told(what)}</li>' for what, yes in report['answer'].items()
  )
  clips = ''.join(
    f'<h3>{told(name)}</h3><img src="clip_{n}.png" alt="spectrograms"><p>'
    + ''.join(
      f'<label>{told(way)}<br><audio controls preload="none" src="{_sound_name(n, way)}"></audio></label> '
      for way in _shown(report)
    )
    + '</p>'
    for n, name in enumerate(report['clips'])
  )
  offered = 'offered' if report['bfloat16_snr'] > BFLOAT16_LIMIT else 'not offered'
  heads = ''.join(f'<th>{told(label)}</th>' for label in MEASURES.values())
  verdict = 'It is trained.' if all(report['answer'].values()) else 'It is not, or not well, trained.'
  return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Codec report</title>
<style>
body {{ font-family: sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse }}
td, th {{ padding: .2em .8em; border-bottom: 1px solid #ccc; text-align: right }}
td:first-child, td:nth-child(2) {{ text-align: left }}
img {{ max-width: 100% }}
label {{ display: inline-block; font-size: small }}
</style>
<h1>Is this codec trained?</h1>
<p><b>{verdict}</b></p><ul>{answers}</ul>
<p>Measured on {report['seconds']:.0f} s of audio, {report['frames']} frames. In bfloat16 decoding is
{report['bfloat16_snr']:.1f} dB from float32: {offered} (above {BFLOAT16_LIMIT:g} dB it is).</p>
<h2>Quality against bit rate</h2><img src="quality.png" alt="quality against bit rate">
<table><tr><th>way</th><th>kind</th><th>kbit/s</th>{heads}</tr>{points}</table>
<h2>Codebooks</h2><img src="usage.png" alt="codebook usage">
{_tokens(report)}
<h2>Clips</h2>{clips}
<details><summary>Settings</summary><pre>{told(json.dumps(report['codec'], indent=2))}</pre></details>
</html>
"""


def _tokens(report: dict) -> str:
  """What a language model will see of the codec: how steady its codes are, and what they cost."""
  steady = ''.join(
    f'<tr><td>{html.escape(name)}</td><td></td><td>{100 * found["value"]:.1f}</td>'
    + ''.join(f'<td>{100 * level:.0f}</td>' for level in found['levels'])
    + '</tr>'
    for name, found in report['agreement'].items()
  )
  nats, levels = report['nats'], len(report['usage'])
  costs = ''.join(
    f'<tr><td>{name}</td><td></td><td>{nats[name]["nats_a_second"]:.1f}</td>'
    + ''.join(f'<td>{level:.2f}</td>' for level in nats[name]['levels'])
    + '</tr>'
    for name in COSTS
  )
  heads = ''.join(f'<th>level {k}</th>' for k in range(levels))
  return f"""<h2>Tokens</h2>
<p>Codes that stay the same, %, when the sound is changed in a way that is hardly heard. A codec that writes
other codes for it makes a language model learn each piece many times.</p>
<table><tr><th>change</th><th></th><th>all levels</th>{heads}</tr>{steady}</table>
<p>Cost of held-out audio ({nats['held_out_seconds']:.0f} s) under models that learnt from the rest
({nats['train_seconds']:.0f} s): in all, nats a second; by level, nats a token. The causal model is a
Transformer of {nats['model']['parameters']:,} parameters that sees {nats['model']['seconds']:.1f} s.</p>
<table><tr><th>model</th><th></th><th>nats a second</th>{heads}</tr>{costs}</table>"""


def read_clips(codec: Codec, source: pathlib.Path, count: int, seconds: float) -> dict[str, np.ndarray]:
  """Name -> audio from the middle of up to `count` media files of a folder, or of the one file given.

  Raises:
    errors.MediaError: none can be measured.
  """
  paths = [source]
  if source.is_dir():
    paths = sorted(path for path in source.rglob('*') if path.suffix.lower() in AUDIO_SUFFIXES)
  clips: dict[str, np.ndarray] = {}
  for path in paths[:: max(1, len(paths) // count)]:
    try:
      about = probe.probe(path).audio
      if about is None:
        warnings.warn(f'{path}: it has no sound, so it is passed over', stacklevel=1)
        continue
      middle = max(0.0, (float(about.duration) - seconds) / 2)
      sound, _ = audio_files.load_audio(path, codec.sample_rate, codec.channels, middle, seconds)
    except errors.MediaError as error:
      if path == source:
        raise
      warnings.warn(f'{error} It is passed over.', stacklevel=1)
      continue
    if not np.isfinite(sound).all() or not sound.any() or len(sound) < 4096:
      warnings.warn(f'{path}: silent, damaged or too short in its middle, so it is passed over', stacklevel=1)
      continue
    clips[path.stem if path.stem not in clips else str(path)] = sound
    if len(clips) == count:
      break
  if not clips:
    raise errors.MediaError(f'{source}: no audio that can be measured is there')
  return clips


def narrowed(codec: Codec, codes: np.ndarray) -> Codec:
  """The codec in bfloat16, if that is near enough on the first seconds of these codes.

  Raises:
    errors.ConfigError: it is not.
  """
  ratio = bfloat16_quality(codec, codes[: codec.block])
  if ratio <= BFLOAT16_LIMIT:
    raise errors.ConfigError(
      f'--bfloat16: this codec is then {ratio:.1f} dB from float32, less than {BFLOAT16_LIMIT:g}; '
      'leave it out'
    )
  return codec.with_dtype('bfloat16')
