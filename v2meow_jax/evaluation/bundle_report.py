"""A bundle on a prepared dataset: likelihoods, what conditions are worth, reconstruction."""

import functools
import pathlib
import time
from fractions import Fraction
from typing import Any

import jax
import numpy as np

from v2meow_jax import errors, terminal
from v2meow_jax.bundles import Bundle
from v2meow_jax.codec.codec import Codec
from v2meow_jax.data.dataset import Dataset, fingerprint, read_streams
from v2meow_jax.encoders import registry
from v2meow_jax.evaluation import bootstrap, conditioning, entropy, precision, provenance, reconstruction
from v2meow_jax.evaluation.conditioning import Scores
from v2meow_jax.evaluation.kept import Kept
from v2meow_jax.models.runner import StageRunner
from v2meow_jax.streams import Stream

COUNTED = 256  # clips that tokens are counted in, at most


def measure(
  bundle: Bundle,
  dataset: pathlib.Path,
  *,
  crops: int = 64,
  clips: int = 32,
  shift: float = 2.0,
  dtype: str = 'float32',
  seed: int = 0,
  kept: Kept | None = None,
  shard: tuple[int, int] = (0, 1),
  progress: terminal.Progress | None = None,
) -> dict[str, Any]:
  """Measures a bundle's stages and codec on a dataset's validation split.

  Args:
    bundle: what is measured.
    dataset: with the streams of its stages.
    crops: that a stage is measured on.
    clips: that the codec is measured on, where the dataset holds audio/waveform.
    shift: seconds by which conditions are moved against the music.
    dtype: of the stages; another than float32 is compared with it as well.
    seed: of the choice of crops.
    kept: where scores are kept, so that they are made once; None: they are not.
    shard: see `conditioning.remembered`; of more than one, scores are kept and the report is empty.
    progress: that is told.

  Returns:
    The report, JSON values: `provenance`; `metrics`, every figure by name with `value`, `interval` (95%,
    drawn by track) and `count` (tracks); `stages` and `codec`, the same in tables.

  Raises:
    errors.ConfigError: fewer than two crops, no clip, or no shift.
    errors.DatasetError: a stream is missing, or another codec made it.
  """
  if crops < 2 or clips < 1 or shift <= 0:
    raise errors.ConfigError('--crops must be at least 2, --clips at least 1 and --shift above 0')
  began = time.perf_counter()
  progress = progress or terminal.Progress(quiet=True)
  codec, entries = bundle.codec(), read_streams(dataset)
  _check_codec(dataset, entries, codec)
  settings = {'bundle': bundle.digest, 'dataset': fingerprint(dataset), 'seed': seed, 'crops': crops}
  report: dict[str, Any] = {
    'subject': 'likelihood',
    'bundle': str(bundle.directory),
    'dataset': str(dataset),
    'provenance': provenance.describe(settings | {'clips': clips, 'shift': shift, 'dtype': dtype}),
    'stages': {},
  }
  for runner in bundle.stages():
    used, name = runner.prepared(dtype), runner.stage.name
    score = conditioning.scorer(used)
    if kept is not None:
      about = {'bundle': bundle.digest, 'stage': name, 'dtype': dtype}
      score = conditioning.remembered(score, runner.stage.target.depth, kept, about, shard)
    found = measure_stage(
      used, str(dataset), crops, shift, seed, functools.partial(progress.update, name), score
    )
    if shard[1] > 1:
      continue
    if dtype != 'float32':
      found['against_float32'] = compare(runner.prepared('float32'), used, str(dataset), crops, seed)
    report['stages'][name] = found
  if shard[1] > 1:
    return {'failures': {}}
  if 'audio/waveform' in entries:
    report['codec'] = measure_codec(codec, dataset, clips)
  report['metrics'] = metrics(report)
  report['pieces'] = {
    f'{name}: {piece}': {'track': told['track'], 'values': {f'{name}/nats_a_token': told['nats_a_token']}}
    for name, stage in report['stages'].items()
    for piece, told in stage.pop('pieces').items()
  }
  report['provenance']['seconds'] = round(time.perf_counter() - began, 1)
  return report


def _check_codec(dataset: pathlib.Path, entries: dict, codec: Codec) -> None:
  entry = entries.get(codec.stream.name)
  if entry is not None and not registry.same(entry['made_by'], codec.identity):
    raise errors.DatasetError(
      f'{dataset}: stream {codec.stream.name} was made by another codec than the bundle has; prepare it again'
    )


def measure_stage(
  runner: StageRunner,
  dataset: str,
  crops: int,
  shift: float,
  seed: int,
  progress=lambda done, total: None,
  score: conditioning.Score | None = None,
) -> dict[str, Any]:
  """Likelihood on both splits, entropies of the tokens, and what each condition is worth."""
  stage, score = runner.stage, score or conditioning.scorer(runner)
  target = stage.target
  held_out = Dataset(dataset, 'validation', stage.streams)
  own, measured, conditions = conditioning.measure(
    runner, held_out, crops=crops, shift=shift, seed=seed, progress=progress, score=score
  )
  tracks = [crop.track for crop in measured]
  found: dict[str, Any] = {'validation': losses(runner, own, tracks, seed)}
  found['pieces'] = {
    f'{held_out.clips[crop.clip].id} at {float(crop.start):g} s': {'track': crop.track, 'nats_a_token': value}
    for crop, value in zip(measured, _each(own), strict=True)
  }
  # The train split on its own crops: how much was learnt by heart.
  data = Dataset(dataset, 'train', stage.streams)
  chosen = conditioning.Places(data, stage, seed).choose(crops)
  read = (conditioning.read(data, stage.streams, crop, stage.crop_seconds) for crop in chosen)
  scores = conditioning.score_all(score, read, target.depth)
  found['train'] = losses(runner, scores, [crop.track for crop in chosen], seed)
  tokens = {name: _tokens(part, target.stream, target.span) for name, part in (('t', data), ('v', held_out))}
  for name, function in (('unigram', entropy.unigram), ('bigram', entropy.bigram)):
    levels = entropy.by_level(function, tokens['t'], tokens['v'], target.stream.codes)
    found[name] = {'nats_a_token': float(levels.mean()), 'levels': levels.tolist()}
    found[name]['nats_a_second'] = float(levels.sum() * target.stream.rate)
  found['crop_seconds'], found['conditions'] = float(stage.crop_seconds), conditions
  return found


def _each(own: Scores) -> list[float]:
  """Nats a token of each crop."""
  return (own.nats.sum((1, 2)) / np.maximum(own.tokens.sum(1) * own.nats.shape[2], 1)).tolist()


def losses(runner: StageRunner, own: Scores, tracks: list[str], seed: int) -> dict[str, Any]:
  """Nats a token and a second, accuracy, by level and by part of the crop, each an `Estimate.told`."""
  target = runner.stage.target
  depth, rate = target.depth, float(target.stream.rate)
  frames = own.tokens.sum(1)

  def mean(values, weights, unit='nats a token', better='lower', factor=1.0):
    ratio = factor * values / np.maximum(weights, 1)
    return bootstrap.mean(ratio, tracks, weights, unit=unit, better=better, seed=seed).told()

  nats, hits = own.nats.sum((1, 2)), own.hits.sum((1, 2))
  return {
    'nats_a_token': mean(nats, frames * depth),
    'nats_a_second': mean(nats, frames, 'nats a second', factor=rate),
    'bits_a_second': mean(nats, frames, 'bits a second', factor=rate / np.log(2)),
    'accuracy': mean(hits, frames * depth, 'share', 'higher'),
    'levels': {
      str(target.span[0] + k): {
        'nats_a_token': mean(own.nats[:, :, k].sum(1), frames),
        'accuracy': mean(own.hits[:, :, k].sum(1), frames, 'share', 'higher'),
      }
      for k in range(depth)
    },
    'places': [mean(own.nats[:, p].sum(1), own.tokens[:, p] * depth) for p in range(own.tokens.shape[1])],
    'crops': len(tracks),
  }


def compare(exact: StageRunner, rough: StageRunner, dataset: str, crops: int, seed: int) -> dict:
  """How far two precisions of a stage differ on the validation split."""
  stage, size = exact.stage, min(8, crops)
  data = Dataset(dataset, 'validation', stage.streams)
  chosen = conditioning.Places(data, stage, seed).choose(-(-crops // size) * size)
  one, other = (functools.partial(jax.jit(it.model.apply), {'params': it.params}) for it in (exact, rough))

  def batches():
    for at in range(0, len(chosen), size):
      part = [
        conditioning.read(data, stage.streams, crop, stage.crop_seconds) for crop in chosen[at : at + size]
      ]
      yield {name: np.stack([row[name] for row in part]) for name in part[0]}

  return precision.against_exact(one, other, batches(), f'{stage.target.stream.name}/mask')


def _tokens(data: Dataset, stream: Stream, levels: tuple[int, int]) -> list[np.ndarray]:
  """Tokens of clips evenly spread over the split, no more than memory and counts need."""
  chosen = np.unique(np.linspace(0, len(data.clips) - 1, min(COUNTED, len(data.clips))).round().astype(int))
  clips = [data.read(stream, int(clip))[:, slice(*levels)].astype(np.int64) for clip in chosen]
  return [clip for clip in clips if len(clip) > 1]


def measure_codec(codec: Codec, dataset: pathlib.Path, clips: int) -> dict:
  """Reconstruction of held-out clips, evenly spread over the split."""
  stream = Stream('audio/waveform', 'audio', Fraction(codec.sample_rate), codec.config.channels)
  data = Dataset(dataset, 'validation', (stream,))
  chosen = np.unique(np.linspace(0, len(data.clips) - 1, min(clips, len(data.clips))).round().astype(int))
  tracks = [data.clips[int(n)].source for n in chosen]
  return reconstruction.reconstruct(
    codec, (data.read(stream, int(n)) / np.float32(32768) for n in chosen), tracks
  )


def metrics(report: dict[str, Any]) -> dict[str, dict]:
  """Every figure of a report by one name."""
  found: dict[str, dict] = {}
  for stage, told in report['stages'].items():
    for name in ('nats_a_token', 'nats_a_second', 'bits_a_second', 'accuracy'):
      found[f'{stage}/{name}'] = told['validation'][name]
    found[f'{stage}/train/nats_a_token'] = told['train']['nats_a_token']
    for level, values in told['validation']['levels'].items():
      found |= {f'{stage}/level_{level}/{name}': value for name, value in values.items()}
    for condition, kinds in told['conditions'].items():
      for kind, gained in kinds.items():
        found[f'{stage}/{condition}/{kind}/gain'] = gained['gain']
        found[f'{stage}/{condition}/{kind}/wins'] = gained['wins']
  for name, value in report.get('codec', {}).items():
    if isinstance(value, dict):
      found[f'codec/{name}'] = value
  return found


def tell(report: dict[str, Any]) -> list[str]:
  """Lines for a person."""
  lines = []
  for name, stage in report['stages'].items():
    yardsticks = {key: stage[key]['nats_a_token']['value'] for key in ('train', 'validation')}
    yardsticks |= {key: stage[key]['nats_a_token'] for key in ('unigram', 'bigram')}
    told = '  '.join(f'{key} {value:.3f}' for key, value in yardsticks.items())
    second = stage['validation']['nats_a_second']['value']
    lines.append(f'{name}: {told} nats a token; validation {second:.1f} nats a second')
    if 'against_float32' in stage:
      compared = stage['against_float32']
      lines.append(
        f'  against float32: the likeliest code is the same for {compared["agreement"]:.1%} of '
        f'{compared["tokens"]:,} tokens, the divergence {compared["divergence"]:.1e} nats'
      )
    for condition, kinds in stage['conditions'].items():
      parts = [f'{kind} {told_gain(gained["gain"])}' for kind, gained in kinds.items()]
      lines.append(f'  {condition}, gain against: ' + '  '.join(parts))
  if 'codec' in report:
    codec = report['codec']
    lines.append(
      f'codec: log-mel {codec["log_mel"]["value"]:.3f}  STFT {codec["stft"]["value"]:.3f}  '
      f'SI-SDR {codec["si_sdr"]["value"]:.2f} dB  codes used {codec["codebook_used"]:.1%}  '
      f'perplexity {codec["perplexity"]:.0f}  over {codec["seconds"]:.0f} s held out'
    )
  return lines


def told_gain(estimate: dict) -> str:
  """A figure with its interval, or a dash."""
  if estimate['value'] is None:
    return '-'
  low, high = estimate['interval']
  edges = '' if low is None else f' [{low:.4f}, {high:.4f}]'
  return f'{estimate["value"]:.4f}{edges}'
