"""A run of a stage as a T5X checkpoint: of the stage itself, or of T5X's decoder-only network."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from etils import epath

from v2meow_jax import errors
from v2meow_jax.bundles import is_run, types
from v2meow_jax.bundles.saved_run import FILE
from v2meow_jax.models import layout
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.stages import Stage
from v2meow_jax.t5x import checkpoint, decoder_only, param_states
from v2meow_jax.t5x.checkpoint import flat
from v2meow_jax.training.checkpoints import restore_arrays


def axes_of(trainable: StageTrainable, batch: Mapping[str, Any]) -> dict[str, param_states.Axes]:
  """Logical axes of every parameter of a stage, by its name."""
  state = jax.eval_shape(trainable.init, jax.random.key(0), batch)
  return {name: box.names for name, box in flat(state['params']).items()}


def export(run_dir: epath.PathLike, out: epath.PathLike, summed: float = 1.0) -> tuple[epath.Path, list[str]]:
  """Writes the newest checkpoint of a stage's run as `out/checkpoint_STEP`.

  Parameters keep their names and their layout. What Adafactor keeps goes with them; the state of another
  optimiser stays behind.

  Args:
    run_dir: of the run.
    out: a model_dir of T5X; made where there is none.
    summed: tokens of a batch, where T5X is to go on with a loss that is their sum; see `param_states`.

  Returns:
    The checkpoint's folder, and what is to be said of it.

  Raises:
    errors.BundleError: it is no run of a stage, or the checkpoint is there already.
  """
  stage, config = _described(run_dir)
  saved, step = restore_arrays(run_dir)
  state, notes = saved['trainable'], []
  params = flat(state['params'])
  arrays = {f'target/{name}': np.asarray(value) for name, value in params.items()}
  kept = _factored(state['opt_state'])
  if kept is None:
    notes.append('the optimizer is not Adafactor; its state stays behind, so T5X begins with a fresh one')
  else:
    config = dataclasses.replace(config, scan_layers='layers' in state['params']['transformer'])
    axes = axes_of(StageTrainable(stage, config, optax.identity()), stage.empty_batch())
    moments = param_states.to_t5x(kept, params, axes, summed)
    arrays |= {f'state/param_states/{name}': value for name, value in moments.items()}
  return checkpoint.write(out, step, arrays), [*notes, *_average(state)]


def export_decoder_only(
  run_dir: epath.PathLike, out: epath.PathLike, offset: int = 0
) -> tuple[epath.Path, list[str]]:
  """Writes a stage's run as a checkpoint of T5X's decoder-only network; `import_run` is the way back.

  Args:
    run_dir: of the run.
    out: a model_dir of T5X; made where there is none.
    offset: the token that is to be code 0 of the target's first level; see `decoder_only.from_stage`.

  Returns:
    The checkpoint's folder, and what is to be said of it.

  Raises:
    errors.BundleError: it is no run of a stage, the stage is another network than T5X's, or the checkpoint is
      there already.
  """
  stage, config = _described(run_dir)
  try:
    decoder_only.check_stage(stage, config)
    saved, step = restore_arrays(run_dir)
    state = saved['trainable']
    weights = layout.to_unrolled(state['params'], config.layers)
    weights = {name: np.asarray(value) for name, value in flat(weights).items()}
    made = decoder_only.from_stage(weights, stage, config, offset)
  except errors.BundleError as error:
    text = str(error)
    raise errors.BundleError(text if str(run_dir) in text else f'{run_dir}: {text}') from error
  told = decoder_only.settings_of(stage, config, offset)
  notes = ['network.TransformerConfig of it: ' + ', '.join(f'{name}={value}' for name, value in told.items())]
  others = told['vocab_size'] - stage.target.stream.codes
  if others:
    notes.append(
      f"logits are the stage's, but T5X's softmax also counts the {others} tokens that are not of the level "
      'that comes next: its losses are higher, and it may draw them'
    )
  if np.sqrt(config.width / config.heads) not in 2.0 ** np.arange(16):
    notes.append('queries were divided by a root that is no power of two, and so rounded once')
  notes.append('the state of the optimizer stays behind, as the tables of T5X are others')
  arrays = {f'target/{name}': value for name, value in made.items()}
  return checkpoint.write(out, step, arrays), [*notes, *_average(state)]


def _described(run_dir: epath.PathLike) -> tuple[Stage, TransformerConfig]:
  """The stage that a run trained, and the settings of its Transformer."""
  path = epath.Path(run_dir) / FILE
  if not is_run(run_dir):
    raise errors.BundleError(f'{run_dir}: no {FILE} there; a run is what v2meow train writes')
  with errors.translated(errors.BundleError, f'{path}: damaged'):
    about = json.loads(path.read_text())
    if about['kind'] != 'stage':
      raise errors.BundleError(f'{run_dir}: this run trained a {about["kind"]}; only a stage can be exported')
    return types.stage(about), types.transformer(about)


def _average(state: Any) -> list[str]:
  return ['the moving average of the parameters stays behind; T5X keeps none'] if 'ema' in state else []


def _factored(state: Any) -> optax.FactoredState | None:
  """Adafactor's state within an optimiser's as Orbax gives it back: nested, by names and numbers."""
  if isinstance(state, Mapping):
    if set(state) == set(optax.FactoredState._fields):
      return optax.FactoredState(state['count'], *(flat(state[part]) for part in param_states.KEPT))
    state = list(state.values())
  if isinstance(state, list | tuple):
    return next((found for part in state if (found := _factored(part)) is not None), None)
  return None
