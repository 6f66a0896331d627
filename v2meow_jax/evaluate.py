"""`v2meow evaluate`: a bundle on a dataset: losses, entropies, conditions, reconstruction."""

import argparse
import functools
import itertools
import json
import pathlib
import sys
from fractions import Fraction

import numpy as np

from v2meow_jax import bundle, cli, errors, files
from v2meow_jax.codec.codec import Codec
from v2meow_jax.data.batches import stage_batches
from v2meow_jax.data.dataset import Dataset, read_streams
from v2meow_jax.evaluation import conditioning, entropy, precision, reconstruction
from v2meow_jax.generation.pipeline import prepared
from v2meow_jax.generation.score import StageRunner
from v2meow_jax.streams import Stream


def main(argv: list[str] | None = None) -> int:
  """Measures a bundle's stages and codec on a dataset's validation split, in nats a token."""
  parser = argparse.ArgumentParser(prog='v2meow evaluate', description=main.__doc__)
  parser.add_argument('--bundle', type=pathlib.Path, required=True)
  parser.add_argument('--dataset', type=pathlib.Path, required=True)
  parser.add_argument('--out', type=pathlib.Path, help='a JSON file for the figures')
  parser.add_argument(
    '--dtype', choices=('float32', 'bfloat16'), default='float32',
    help='of the stages; bfloat16 is compared with float32 as well',
  )  # fmt: skip
  parser.add_argument('--crops', type=int, default=64, help='crops a stage is measured on')
  parser.add_argument('--clips', type=int, default=32, help='clips that the codec is measured on')
  parser.add_argument('--seed', type=int, default=0, help='of the choice of crops')
  args = parser.parse_args(argv)
  if args.crops < 2 or args.clips < 1:
    raise errors.ConfigError('--crops must be at least 2 and --clips at least 1')
  loaded = bundle.load(args.bundle)
  codec = loaded.codec()
  entries = read_streams(args.dataset)
  _check_codec(args.dataset, entries, codec)
  report: dict = {'bundle': str(args.bundle), 'dataset': str(args.dataset), 'crops': args.crops}
  report |= {'dtype': args.dtype, 'stages': {}}
  for runner in loaded.stages():
    used = prepared(runner, args.dtype)
    found = measure_stage(used, str(args.dataset), args.crops, args.seed)
    if args.dtype != 'float32':
      exact = prepared(runner, 'float32')
      found['against_float32'] = compare(exact, used, str(args.dataset), args.crops, args.seed)
    report['stages'][runner.stage.name] = found
  if 'audio/waveform' in entries:
    report['codec'] = measure_codec(codec, args.dataset, args.clips)
  else:
    print(f'{args.dataset}: no stream audio/waveform, so the codec is not measured', file=sys.stderr)
  _print(report)
  if args.out:
    files.write_text(args.out, json.dumps(report, indent=2) + '\n')
  return 0


def _check_codec(dataset: pathlib.Path, entries: dict, codec: Codec) -> None:
  entry = entries.get(codec.stream.name)
  if entry is not None and entry['made_by'] != json.loads(json.dumps(codec.identity)):
    raise errors.DatasetError(
      f'{dataset}: stream {codec.stream.name} was made by another codec than the bundle has; prepare it again'
    )


def measure_stage(runner: StageRunner, dataset: str, crops: int, seed: int) -> dict:
  """Loss on both splits, entropies of the tokens, and what each embedding condition is worth."""
  import jax

  from v2meow_jax.models.trainable import StageTrainable

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
  import jax

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


def _print(report: dict) -> None:
  for name, stage in report['stages'].items():
    yardsticks = {key: stage[key]['loss'] for key in ('train', 'validation', 'unigram', 'bigram')}
    told = '  '.join(f'{key} {value:.3f}' for key, value in yardsticks.items())
    print(f'{name}: {told} nats a token')
    if 'against_float32' in stage:
      compared = stage['against_float32']
      print(
        f'  against float32: the likeliest code is the same for {compared["agreement"]:.1%} of '
        f'{compared["tokens"]:,} tokens, the divergence {compared["divergence"]:.1e} nats'
      )
    for condition, found in stage['conditions'].items():
      losses = '  '.join(f'{key} {found[key]:.4f}' for key in ('own', 'foreign', 'missing'))
      print(
        f'  {condition}: {losses}  gain {found["gain"]:.4f} +- {found["gain_error"]:.4f}  '
        f'own wins {found["own_wins"]:.0%} of {found["examples"]}'
      )
  if 'codec' in report:
    codec = report['codec']
    print(
      f'codec: log-mel {codec["log_mel"]:.3f}  SI-SDR {codec["si_sdr"]:.2f} dB  '
      f'codes used {codec["codebook_used"]:.1%}  perplexity {codec["perplexity"]:.0f}  '
      f'over {codec["seconds"]:.0f} s held out'
    )


if __name__ == '__main__':
  sys.exit(cli.run(main, sys.argv[1:]))
