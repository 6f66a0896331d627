"""A T5X checkpoint as a run.

The run is whole: `v2meow export` makes a bundle of it, `WarmStart` begins with it, and `v2meow train` goes
on with it.
"""

import ast
import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from v2meow_jax import errors
from v2meow_jax.bundles.saved_run import FILE
from v2meow_jax.models import layout
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.t5x import decoder_only, matching, param_states
from v2meow_jax.t5x.checkpoint import Checkpoint, flat, nested
from v2meow_jax.t5x.exporting import axes_of
from v2meow_jax.training.checkpoints import Checkpoints
from v2meow_jax.training.guard import Guard
from v2meow_jax.training.protocols import Batches
from v2meow_jax.training.run import init_function

# What neither names nor shapes show: with another of these a network would load and be wrong.
UNSEEN = ('heads', 'positions', 'time_aligned', 'causal_buckets')
MOMENTS = 'state/param_states'


@dataclasses.dataclass(frozen=True)
class Options:
  """How a checkpoint is read.

  Attributes:
    rules: see `matching.match`.
    partial: whether arrays that are not there, or of another shape, are made anew.
    activations: T5X's `mlp_activations`, of its decoder-only network; by default what the `config.gin` beside
      the checkpoint says.
    offset: of its decoder-only network, the token that is code 0.
    cast: whether parameters may be of several types.
    summed: tokens that T5X's loss was summed over, by which its moments are scaled; see `param_states`. By
      default what the `config.gin` beside the checkpoint says; without one, 1.
  """

  rules: matching.Rules = ()
  partial: bool = False
  activations: Sequence[str] | None = None
  offset: int = 0
  cast: bool = False
  summed: float | None = None


def import_run(
  source: Checkpoint,
  trainable: StageTrainable,
  batches: Batches,
  guard: Guard,
  out: pathlib.Path,
  options: Options,
) -> list[str]:
  """Makes a run of a checkpoint; nothing is written unless all of it is right.

  Args:
    source: of one of our stages as T5X trained it, or of T5X's decoder-only network.
    trainable, batches, guard: what the run is to train.
    out: the run's directory, to be made.
    options: see there.

  Returns:
    What became of everything, in lines.

  Raises:
    errors.BundleError: the checkpoint does not fit or is damaged, or `out` is there.
  """
  if out.exists():
    raise errors.BundleError(f'{out}: it is there already; name a folder that is to be made')
  batch = {name: np.zeros(x.shape, x.dtype) for name, x in batches.shapes().items()}
  with _named(source):
    target = _target(source, options.cast)
    if decoder_only.is_decoder_only(target):
      theirs, new = _of_decoder_only(source, target, trainable, options)
    else:
      _check_settings(source, trainable)
      theirs, new = flat(_unrolled(nested(target))), ()
    state = _fresh(trainable, guard, batch)
    ours = flat(trainable.weights(state['trainable']))
    report = matching.match(
      {name: value for name, value in ours.items() if name not in new}, theirs, options.rules, options.partial
    )
    report = dataclasses.replace(report, new=(*new, *report.new))
    loaded = {name: np.asarray(theirs[found], ours[name].dtype) for name, found in report.matched.items()}
    state['trainable'] = trainable.with_weights(state['trainable'], nested(ours | loaded))
    summed = _summed(source, trainable, batches) if options.summed is None else options.summed
    step, told = _take_moments(source, target, trainable, state, batch, report, summed)
  _save(out, trainable, batches, state, step, step * batches.batch_size)
  mutables = source.part('flax_mutables')
  left = [f'{len(mutables)} arrays of flax_mutables are left, as a stage has none'] if mutables else []
  return [*report.lines(), *left, told, f'{out}: step {step}, example {step * batches.batch_size} comes next']


@contextlib.contextmanager
def _named(source: Checkpoint) -> Iterator[None]:
  """Around what is said of a checkpoint by those that do not know where it lies."""
  try:
    yield
  except errors.BundleError as error:
    where = str(source.directory)
    raise errors.BundleError(str(error) if where in str(error) else f'{where}: {error}') from error


def _target(source: Checkpoint, cast: bool) -> dict[str, np.ndarray]:
  about = source.part('target')
  if not about:
    raise errors.BundleError('there are no parameters ("target") in it')
  kinds = {array.dtype.name: name for name, array in about.items()}
  if len(kinds) > 1 and not cast:
    told = ', '.join(f'{kind} ({name})' for kind, name in sorted(kinds.items()))
    raise errors.BundleError(
      f'its parameters are of several types, {told}, though T5X saves them in one; --cast takes them'
    )
  for name, array in about.items():
    if not jnp.issubdtype(array.dtype, jnp.floating):
      raise errors.BundleError(f'{name} is {array.dtype.name}, which no parameter is')
  found = source.read([f'target/{name}' for name in about])
  return {name.removeprefix('target/'): value for name, value in found.items()}


def _unrolled(tree: dict[str, Any]) -> dict[str, Any]:
  stacked = tree.get('transformer', {}).get('layers')
  return tree if stacked is None else layout.to_unrolled(tree, len(jax.tree.leaves(stacked)[0]))


def _fresh(trainable: StageTrainable, guard: Guard, batch: Mapping[str, Any]) -> dict[str, Any]:
  init = init_function(trainable, guard)
  return jax.jit(lambda rng: nn.unbox(init(rng, batch)))(jax.random.key(0))


def recorded(source: Checkpoint, setting: str) -> dict[str, Any]:
  """What the `config.gin` that T5X writes beside its checkpoints says of a class: its settings by name."""
  path = source.directory.parent / 'config.gin'
  if not path.exists():
    return {}
  # Long values go on in the next line behind a backslash.
  text = path.read_text().replace('\\\n', ' ')
  found = {}
  for name, value in re.findall(rf'^(?:[\w./]+\.)?{setting}\.(\w+) = (.*)$', text, re.MULTILINE):
    with contextlib.suppress(ValueError, SyntaxError):  # a reference to something else
      found[name] = ast.literal_eval(value.strip())
  return found


def _summed(source: Checkpoint, trainable: StageTrainable, batches: Batches) -> float:
  """Tokens that the loss of one of our stages was summed over, by T5X's record of its settings."""
  said = recorded(source, 'StageModel')
  factor = said.get('loss_normalizing_factor', 'mean')
  if isinstance(factor, str):  # or no record
    return 1.0
  text = (source.directory.parent / 'config.gin').read_text()
  found = re.search(r'^BATCH_SIZE = (\d+)$', text, re.MULTILINE)
  stage = trainable.stage
  rows = int(found[1]) if found else batches.batch_size
  return rows * stage.frames * stage.target.depth / (factor or 1)


def _check_settings(source: Checkpoint, trainable: StageTrainable) -> None:
  """Compares what only the configuration beside the checkpoint tells, where there is one."""
  said = recorded(source, 'TransformerConfig')
  differ = [name for name in UNSEEN if name in said and said[name] != getattr(trainable.config, name)]
  if differ:
    told = ' '.join(f'--gin.TransformerConfig.{name}={said[name]!r}' for name in differ)
    raise errors.BundleError(
      f'by its config.gin it was trained as another network; it would be the same with {told}'
    )


def _of_decoder_only(
  source: Checkpoint, target: Mapping[str, np.ndarray], trainable: StageTrainable, options: Options
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """(arrays of a stage by name, those that T5X's network has none of)."""
  network = decoder_only.look(target)
  activations = options.activations
  if activations is None:
    said = recorded(source, 'TransformerConfig') | recorded(source, 'T5Config')
    activations = said.get('mlp_activations')
  decoder_only.check(network, trainable.stage, trainable.config, activations, options.offset)
  made = decoder_only.to_stage(target, network, trainable.stage, options.offset)
  shapes = jax.eval_shape(
    lambda: trainable.weights(nn.unbox(trainable.init(jax.random.key(0), trainable.stage.empty_batch())))
  )
  return made, tuple(name for name in flat(shapes) if name.startswith('condition_'))


def _take_moments(
  source: Checkpoint,
  target: Mapping[str, np.ndarray],
  trainable: StageTrainable,
  state: dict[str, Any],
  batch: Mapping[str, Any],
  report: matching.Report,
  summed: float,
) -> tuple[int, str]:
  """Puts the optimizer's state into a run's, where it is the same; (step of the run, what is to be said)."""

  def begun(why: str) -> tuple[int, str]:
    return 0, f'{why}; the optimizer begins anew, and so does the count of steps'

  inner = state['trainable']
  names = [name for name in source.arrays if name.startswith(f'{MOMENTS}/')]
  is_factored = lambda x: isinstance(x, optax.FactoredState)  # noqa: E731
  leaves, structure = jax.tree.flatten(inner['opt_state'], is_leaf=is_factored)
  place = next((number for number, leaf in enumerate(leaves) if is_factored(leaf)), None)
  if not names:
    return begun(f'there is no {MOMENTS} in it')
  if place is None:
    return begun(f'{MOMENTS} is left, as the optimizer here is not Adafactor')
  if not report.whole:
    return begun(f'{MOMENTS} is left, as not every parameter is from there by its own name')
  step = source.step
  found = {name.removeprefix(f'{MOMENTS}/'): value for name, value in source.read(names).items()}
  theirs = trainable.with_layout('scanned' if 'layers' in nested(target)['transformer'] else 'unrolled')
  try:
    kept = param_states.of_t5x(found, step, target, axes_of(theirs, batch), summed)
  except errors.BundleError as error:
    return begun(f'{MOMENTS} is left: {error}')
  parts = {}
  for part in param_states.KEPT:
    parts[part] = trainable.relayout(nested(getattr(kept, part)), trainable.layout)
    ours = flat(getattr(leaves[place], part))
    for name, value in flat(parts[part]).items():
      if value.shape != ours[name].shape:
        return begun(
          f'{MOMENTS} is left: {name}/{part} is {value.shape} there and {ours[name].shape} here '
          '(adafactor.min_dim_size_to_factor)'
        )
  leaves[place] = leaves[place]._replace(**jax.tree.map(jnp.asarray, parts))

  def counted(path, leaf):
    return jnp.asarray(step, leaf.dtype) if getattr(path[-1], 'name', '') == 'count' else leaf

  opt_state = jax.tree.unflatten(structure, leaves)
  inner |= {'opt_state': jax.tree_util.tree_map_with_path(counted, opt_state), 'step': jnp.int32(step)}
  scaled = '' if summed == 1 else f', of a loss summed over {summed:g} tokens and now of their mean'
  return step, f'{len(names)} arrays of Adafactor matched{scaled}'


def _save(
  out: pathlib.Path, trainable: StageTrainable, batches: Batches, state: Any, step: int, position: int
) -> None:
  """Writes the run beside its place and moves it there."""
  out.parent.mkdir(parents=True, exist_ok=True)
  temporary = out.with_name(f'.{uuid.uuid4().hex[:12]}.tmp')
  temporary.mkdir()
  try:
    with contextlib.closing(Checkpoints(temporary)) as made:
      made.save(step, state, position, trainable.layout)
    data = {}
    with contextlib.suppress(errors.DatasetError):  # the dataset need not be at hand
      data = batches.describe()
    about = trainable.describe() | {'data': data}
    (temporary / FILE).write_text(json.dumps(about, indent=2) + '\n')
    temporary.rename(out)
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise
