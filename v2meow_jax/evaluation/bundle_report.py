"""A bundle on a prepared dataset: losses, entropies, what conditions are worth, reconstruction."""

import functools
import itertools
import json
import pathlib
from fractions import Fraction

import jax
import numpy as np

from v2meow_jax import errors
from v2meow_jax.bundles import Bundle
from v2meow_jax.codec.codec import Codec
from v2meow_jax.data.batches import stage_batches
from v2meow_jax.data.dataset import Dataset, read_streams
from v2meow_jax.evaluation import conditioning, entropy, precision, reconstruction
from v2meow_jax.models.runner import StageRunner
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.streams import Stream


def measure(
  bundle: Bundle,
  dataset: pathlib.Path,
  *,
  crops: int = 64,
  clips: int = 32,
  dtype: str = 'float32',
  seed: int = 0,
) -> dict:
  """Measures a bundle's stages and codec on a dataset's validation split, in nats a token.

  Args:
    bundle: what is measured.
    dataset: with the streams of its stages.
    crops: that a stage is measured on.
    clips: that the codec is measured on, where the dataset holds audio/waveform.
    dtype: of the stages; another than float32 is compared with it as well.
    seed: of the choice of crops.

  Raises:
    errors.ConfigError: fewer than two crops or no clip.
    errors.DatasetError: a stream is missing, or another codec made it.
  """
  if crops < 2 or clips < 1:
    raise errors.ConfigError('--crops must be at least 2 and --clips at least 1')
  codec, entries = bundle.codec(), read_streams(dataset)
  _check_codec(dataset, entries, codec)
  report: dict = {'bundle': str(bundle.directory), 'dataset': str(dataset), 'crops': crops}
  report |= {'dtype': dtype, 'stages': {}}
  for runner in bundle.stages():
    used = runner.prepared(dtype)
    found = measure_stage(used, str(dataset), crops, seed)
    if dtype != 'float32':
      found['against_float32'] = compare(runner.prepared('float32'), used, str(dataset), crops, seed)
    report['stages'][runner.stage.name] = found
  if 'audio/waveform' in entries:
    report['codec'] = measure_codec(codec, dataset, clips)
  return report


def _check_codec(dataset: pathlib.Path, entries: dict, codec: Codec) -> None:
  entry = entries.get(codec.stream.name)
  if entry is not None and entry['made_by'] != json.loads(json.dumps(codec.identity)):
    raise errors.DatasetError(
      f'{dataset}: stream {codec.stream.name} was made by another codec than the bundle has; prepare it again'
    )


def measure_stage(runner: StageRunner, dataset: str, crops: int, seed: int) -> dict:
  """Loss on both splits, entropies of the tokens, and what each embedding condition is worth."""
  stage = runner.stage
  trainable = StageTrainable(stage, runner.model.config, None)  # type: ignore[arg-type] (nothing is optimised)
  evaluate = jax.jit(lambda params, batch: trainable.eval_fn(params, batch)[1])
  score = jax.jit(trainable.score_batch)
  size = min(8, crops)
  found: dict = {}
  for split in ('train', 'validation'):
    batches = stage_batches(stage, dataset, size, split, seed)
    rows = [
      jax.device_get(evaluate(runner.params, batch))
      for batch in itertools.islice(batches.start(0), -(-crops // size))
    ]
    found[split] = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
  target = stage.target
  tokens = {split: _tokens(dataset, split, target.stream, target.span) for split in ('train', 'validation')}
  for name, function in (('unigram', entropy.unigram), ('bigram', entropy.bigram)):
    levels = entropy.by_level(function, tokens['train'], tokens['validation'], target.stream.codes)
    found[name] = {'loss': float(levels.mean()), 'levels': levels.tolist()}
  found['conditions'] = {}
  for condition in stage.conditions:
    if condition.stream == target.stream:
      continue  # the lower levels of what is predicted cannot be exchanged without it
    batches = stage_batches(stage, dataset, size, 'validation', seed)
    found['conditions'][condition.stream.name] = conditioning.own_against_foreign(
      lambda batch: np.asarray(score(runner.params, batch)),
      itertools.islice(batches.start(0), -(-crops // size)),
      condition.stream.name,
    )
  return found


def compare(exact: StageRunner, rough: StageRunner, dataset: str, crops: int, seed: int) -> dict:
  """How far two precisions of a stage differ on the validation split."""
  size = min(8, crops)
  batches = stage_batches(exact.stage, dataset, size, 'validation', seed)
  one, other = (functools.partial(jax.jit(it.model.apply), {'params': it.params}) for it in (exact, rough))
  part = itertools.islice(batches.start(0), -(-crops // size))
  return precision.against_exact(one, other, part, f'{exact.stage.target.stream.name}/mask')


def _tokens(dataset: str, split: str, stream: Stream, levels: tuple[int, int]) -> list[np.ndarray]:
  data = Dataset(dataset, split, (stream,))
  clips = [data.read(stream, clip)[:, slice(*levels)].astype(np.int64) for clip in range(len(data.clips))]
  return [clip for clip in clips if len(clip) > 1]


def measure_codec(codec: Codec, dataset: pathlib.Path, clips: int) -> dict:
  """Reconstruction of held-out clips, evenly spread over the split."""
  stream = Stream('audio/waveform', 'audio', Fraction(codec.sample_rate), codec.config.channels)
  data = Dataset(dataset, 'validation', (stream,))
  chosen = np.unique(np.linspace(0, len(data.clips) - 1, min(clips, len(data.clips))).round().astype(int))
  return reconstruction.reconstruct(codec, (data.read(stream, int(n)) / np.float32(32768) for n in chosen))


def tell(report: dict) -> list[str]:
  """Lines for a person."""
  lines = []
  for name, stage in report['stages'].items():
    yardsticks = {key: stage[key]['loss'] for key in ('train', 'validation', 'unigram', 'bigram')}
    told = '  '.join(f'{key} {value:.3f}' for key, value in yardsticks.items())
    lines.append(f'{name}: {told} nats a token')
    if 'against_float32' in stage:
      compared = stage['against_float32']
      lines.append(
        f'  against float32: the likeliest code is the same for {compared["agreement"]:.1%} of '
        f'{compared["tokens"]:,} tokens, the divergence {compared["divergence"]:.1e} nats'
      )
    for condition, found in stage['conditions'].items():
      losses = '  '.join(f'{key} {found[key]:.4f}' for key in ('own', 'foreign', 'missing'))
      lines.append(
        f'  {condition}: {losses}  gain {found["gain"]:.4f} +- {found["gain_error"]:.4f}  '
        f'own wins {found["own_wins"]:.0%} of {found["examples"]}'
      )
  if 'codec' in report:
    codec = report['codec']
    lines.append(
      f'codec: log-mel {codec["log_mel"]:.3f}  SI-SDR {codec["si_sdr"]:.2f} dB  '
      f'codes used {codec["codebook_used"]:.1%}  perplexity {codec["perplexity"]:.0f}  '
      f'over {codec["seconds"]:.0f} s held out'
    )

  return lines
