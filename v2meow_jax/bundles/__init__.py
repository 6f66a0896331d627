"""The portable artefact: what is in it, how it is written and read, and how runs become one."""

from etils import epath

from v2meow_jax import errors, files
from v2meow_jax.bundles import types
from v2meow_jax.bundles.bundle import Bundle as Bundle
from v2meow_jax.bundles.saved_run import is_run, read_run
from v2meow_jax.bundles.writing import Network as Network
from v2meow_jax.bundles.writing import write as write
from v2meow_jax.codec.codec import Codec


def load(directory: epath.PathLike) -> Bundle:
  """Opens a bundle; see `Bundle`. One of an object store is copied to this machine first, once."""
  try:
    return Bundle(files.fetched(directory))
  except FileNotFoundError as error:
    raise errors.BundleError(
      f'{directory}: no bundle there; a bundle is what v2meow export writes'
    ) from error


def load_codec(directory: epath.PathLike) -> Codec:
  """The codec of a bundle or of a codec's run.

  Raises:
    errors.BundleError: it is neither, or a run of something else.
  """
  if not is_run(directory):
    return load(directory).codec()
  run = read_run(directory)
  if run.kind != 'codec':
    raise errors.BundleError(f'{directory}: this run trained a {run.kind}, not a codec')
  return Codec(types.codec(run.about['codec']), run.weights)
