"""Several runs, a codec's and the stages', as one bundle."""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from v2meow_jax import description, errors
from v2meow_jax.bundles import types
from v2meow_jax.bundles.saved_run import SavedRun
from v2meow_jax.bundles.writing import NOTHING, Network, write
from v2meow_jax.codec.codec import Codec
from v2meow_jax.encoders import registry
from v2meow_jax.sampling import Sampling


def order_stages(runs: list[SavedRun]) -> list[SavedRun]:
  """Stages in the order in which their targets become available."""
  stages = {run.directory: types.stage(run.about) for run in runs}
  targets = {stage.target.stream.name for stage in stages.values()}
  made: dict[str, int] = {}
  ordered: list[SavedRun] = []
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
  runs: list[SavedRun],
  out: pathlib.Path,
  *,
  fitted: Mapping[str, pathlib.Path] = NOTHING,
  sampling: Mapping[str, Sampling] | None = None,
  dtype: str = 'float32',
  stablehlo: bool = False,
  about: dict[str, Any] | None = None,
) -> None:
  """Writes a bundle from one codec's run and the stages' runs.

  Args:
    runs: in any order.
    out: the bundle's folder; must not exist.
    fitted: files of what the encoders of the training data had learned, by the encoder's name.
    sampling: by stage.
    dtype, stablehlo, about: see `writing.write`.

  Raises:
    errors.BundleError: there is not exactly one codec, or the runs were trained on streams that
      different encoders, another codec or something else fitted made.
  """
  codecs = [run for run in runs if run.kind == 'codec']
  stages = order_stages([run for run in runs if run.kind == 'stage'])
  if len(codecs) != 1 or not stages:
    raise errors.BundleError(
      f'{len(codecs)} codec runs and {len(stages)} stage runs; a bundle has one and some'
    )
  config = types.codec(codecs[0].about['codec'])
  codec = Codec(config, codecs[0].weights)
  made_by: dict[str, dict] = {codec.stream.name: json.loads(json.dumps(codec.identity))}
  for run in stages:
    for name, identity in run.about['data'].items():
      if not registry.same(made_by.setdefault(name, identity), identity):
        raise errors.BundleError(
          f'{run.directory}: it was trained on a stream {name!r} made by something else than the codec '
          'or the other runs of this bundle were trained with'
        )
  networks, predicted, given = [], set(), {}
  for run in stages:
    stage = types.stage(run.about)
    chosen = (sampling or {}).get(stage.name, Sampling())
    told = {
      'stage': run.about['stage'],
      'transformer': run.about['transformer'],
      'sampling': description.describe(chosen),
      'trained_steps': run.step,
    }
    networks.append(Network(f'stage_{stage.name}', told, run.weights))
    predicted.add(stage.target.stream.name)
    given |= {c.stream.name: run.about['data'][c.stream.name] for c in stage.conditions}
  encoders = [identity for name, identity in given.items() if name not in predicted]
  token_encoders = [made_by[name] for name in sorted(predicted) if _is_rebuilt(made_by.get(name, {}))]
  _check_fitted(fitted, made_by, encoders)
  write(
    out,
    codec=Network(
      'codec',
      {'config': codecs[0].about['codec'], 'identity': codec.identity, 'trained_steps': codecs[0].step},
      codecs[0].weights,
    ),
    stages=networks,
    encoders=encoders,
    token_encoders=token_encoders,
    fitted=fitted,
    dtype=dtype,
    stablehlo=stablehlo,
    about=about,
  )


def _is_rebuilt(identity: Mapping[str, Any]) -> bool:
  """Whether an encoder comes from its identity alone, without a file of what was fitted."""
  entry = registry.named(str(identity.get('encoder')))
  return entry is not None and entry.rebuild is not None and not entry.fitted


def _check_fitted(
  fitted: Mapping[str, pathlib.Path], made_by: Mapping[str, dict], encoders: list[dict]
) -> None:
  """What was fitted must be what made the runs' data, and be there where generation needs it."""
  for name, path in fitted.items():
    entry = registry.named(name)
    if entry is None or entry.fitted is None:
      raise errors.BundleError(f'{path}: there is no encoder {name!r} of which something is fitted')
    part = json.loads(json.dumps(entry.fitted(path)))
    if not any(part.items() <= identity.items() for identity in _of(name, made_by.values())):
      raise errors.BundleError(f'{path}: the stages were not trained on what this {name} encoder makes')
  for entry in registry.fitted():
    if entry.name not in fitted and _of(entry.name, encoders):
      raise errors.BundleError(
        f'a stage was trained with {entry.stream}: name what was fitted for it with --{entry.name}'
      )


def _of(name: str, identities: Iterable[dict]) -> list[dict]:
  return [identity for identity in identities if identity.get('encoder') == name]
