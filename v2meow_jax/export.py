"""`v2meow export`: runs to one bundle."""

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import Any

from etils import epath

from v2meow_jax import __version__, bundle, cli, description, errors
from v2meow_jax.codec.codec import Codec
from v2meow_jax.encoders import style as style_lib
from v2meow_jax.encoders.semantic import SemanticEncoder
from v2meow_jax.generation.sampling import Sampling
from v2meow_jax.models import layout


@dataclasses.dataclass(frozen=True)
class Run:
  """A run's newest weights and what they belong to."""

  directory: epath.Path
  kind: str
  about: dict[str, Any]
  step: int
  weights: dict[str, Any]


def read_run(directory: epath.PathLike) -> Run:
  """Reads `model.json` and the latest checkpoint.

  Raises:
    errors.BundleError: it is no run, or it has no complete checkpoint.
  """
  directory = epath.Path(directory)
  path = directory / 'model.json'
  if not path.is_file():
    raise errors.BundleError(f'{directory}: no model.json there; a run is what v2meow train writes')
  try:
    about = json.loads(path.read_text())
    kind = about['kind']
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    raise errors.BundleError(f'{path}: damaged ({error})') from error
  from v2meow_jax.training.checkpoints import restore_arrays

  saved, step = restore_arrays(directory)
  state = saved['trainable']
  if kind == 'codec':
    weights = {'params': state['params'], 'codebooks': state['books']['vectors']}
  else:
    # Averaged parameters where the run kept an average, as its evaluation does.
    weights = layout.to_unrolled(state.get('ema', state['params']), about['transformer']['layers'])
  return Run(directory, kind, about, step, weights)


def order_stages(runs: list[Run]) -> list[Run]:
  """Stages in the order in which their targets become available."""
  stages = {run.directory: description.rebuild(run.about['stage'], bundle.TYPES) for run in runs}
  targets = {stage.target.stream.name for stage in stages.values()}
  made: dict[str, int] = {}
  ordered: list[Run] = []
  while len(ordered) < len(runs):
    for run in runs:
      stage = stages[run.directory]
      needs = [(c.stream.name, c.span[1]) for c in stage.conditions if c.stream.name in targets]
      needs.append((stage.target.stream.name, stage.target.span[0]))
      if run not in ordered and all(made.get(name, 0) >= level for name, level in needs):
        ordered.append(run)
        made[stage.target.stream.name] = max(made.get(stage.target.stream.name, 0), stage.target.span[1])
        break
    else:
      left = [str(run.directory) for run in runs if run not in ordered]
      raise errors.BundleError(f'{", ".join(left)}: needs a stream or level that no other run predicts')
  return ordered


def export(
  runs: list[Run],
  out: pathlib.Path,
  *,
  semantic: SemanticEncoder | None = None,
  style: pathlib.Path | None = None,
  sampling: dict[str, Sampling] | None = None,
  dtype: str = 'float32',
  stablehlo: bool = False,
  about: dict[str, Any] | None = None,
) -> None:
  """Writes a bundle from one codec's run and the stages' runs.

  Raises:
    errors.BundleError: there is not exactly one codec, or the runs were trained on streams that
      different encoders, another codec or another semantic encoder made.
  """
  codecs = [run for run in runs if run.kind == 'codec']
  stages = order_stages([run for run in runs if run.kind == 'stage'])
  if len(codecs) != 1 or not stages:
    raise errors.BundleError(
      f'{len(codecs)} codec runs and {len(stages)} stage runs; a bundle has one and some'
    )
  config = description.rebuild(codecs[0].about['codec'], bundle.TYPES)
  codec = Codec(config, codecs[0].weights)
  made_by: dict[str, dict] = {codec.stream.name: codec.identity}
  if semantic is not None:
    made_by[semantic.stream.name] = semantic.identity
  made_by = json.loads(json.dumps(made_by))
  for run in stages:
    for name, identity in run.about['data'].items():
      if made_by.setdefault(name, identity) != identity:
        raise errors.BundleError(
          f'{run.directory}: it was trained on a stream {name!r} made by something else than the codec, '
          'semantic encoder or other runs of this bundle'
        )
  networks, predicted, given = [], set(), {}
  for run in stages:
    stage = description.rebuild(run.about['stage'], bundle.TYPES)
    chosen = (sampling or {}).get(stage.name, Sampling())
    told = {
      'stage': run.about['stage'],
      'transformer': run.about['transformer'],
      'sampling': description.describe(chosen),
      'trained_steps': run.step,
    }
    networks.append(bundle.Network(f'stage_{stage.name}', told, run.weights))
    predicted.add(stage.target.stream.name)
    given |= {c.stream.name: run.about['data'][c.stream.name] for c in stage.conditions}
  encoders = [identity for name, identity in given.items() if name not in predicted]
  _check_style(encoders, style)
  bundle.write(
    out,
    codec=bundle.Network(
      'codec',
      {'config': codecs[0].about['codec'], 'identity': codec.identity, 'trained_steps': codecs[0].step},
      codecs[0].weights,
    ),
    stages=networks,
    encoders=encoders,
    semantic=semantic,
    style=style,
    dtype=dtype,
    stablehlo=stablehlo,
    about=about,
  )


def _check_style(encoders: list[dict], path: pathlib.Path | None) -> None:
  """The codebooks that the data was made with, where it has style tokens, and else none."""
  wanted = [identity['sha256'] for identity in encoders if identity['encoder'] == 'style']
  if wanted and path is None:
    raise errors.BundleError('a stage was trained with style tokens: name their codebooks with --style')
  if path is not None:
    codebooks, _ = style_lib.read(path)
    if [style_lib.digest(codebooks)] != wanted:
      raise errors.BundleError(f'{path}: the stages were not trained with these style codebooks')


def main(argv: list[str] | None = None) -> int:
  """Joins a codec's run and the stages' runs into one bundle."""
  parser = argparse.ArgumentParser(prog='v2meow export', description=main.__doc__)
  parser.add_argument('--run', type=pathlib.Path, action='append', required=True, help='once a run')
  parser.add_argument('--out', type=pathlib.Path, required=True, help='the bundle, a folder to be made')
  parser.add_argument('--semantic', type=pathlib.Path, help="fit-semantic's file")
  parser.add_argument('--style', type=pathlib.Path, help="fit-style's file")
  parser.add_argument('--name', default='', help='of the model')
  parser.add_argument('--licence', default='', help='of the weights')
  parser.add_argument('--provenance', default='', help='what it was trained on')
  parser.add_argument('--dtype', choices=('float32', 'float16'), default='float32')
  parser.add_argument(
    '--stablehlo', action='store_true', help='also programs that run without this package; docs/generation.md'
  )
  parser.add_argument(
    '--sampling',
    default='{}',
    help='JSON by stage, e.g. \'{"semantic": {"temperature": 0.95, "top_k": 100}}\'',
  )
  args = parser.parse_args(argv)
  try:
    sampling = {name: Sampling(**values) for name, values in json.loads(args.sampling).items()}
  except (json.JSONDecodeError, TypeError, AttributeError) as error:
    raise errors.ConfigError(f'--sampling: {error}') from error
  runs = [read_run(directory) for directory in args.run]
  names = {run.about['stage']['name'] for run in runs if run.kind == 'stage'}
  if set(sampling) - names:
    raise errors.ConfigError(f'--sampling: there is no stage {", ".join(set(sampling) - names)}')
  export(
    runs,
    args.out,
    semantic=SemanticEncoder.load(args.semantic) if args.semantic else None,
    style=args.style,
    sampling=sampling,
    dtype=args.dtype,
    stablehlo=args.stablehlo,
    about={
      'name': args.name or args.out.name,
      'licence': args.licence,
      'provenance': args.provenance,
      'v2meow_jax': __version__,
    },
  )
  size = sum(path.stat().st_size for path in args.out.iterdir())
  print(f'{args.out}: {len(runs)} networks, {size / 1e6:.1f} MB')
  return 0


if __name__ == '__main__':
  sys.exit(cli.run(main, sys.argv[1:]))
