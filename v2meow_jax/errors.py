"""What is raised when the input, and not the program, is at fault.

Every message is one sentence that names the file or setting, says what is wrong with it and what
to do. The command line prints it alone and exits with status 2; a library caller catches
`InputError`, which is a `ValueError`, or one of its kinds.
"""

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
  """Input that cannot be used: a file, a setting or a combination of them."""


class MediaError(InputError):
  """A media file that is missing, damaged or lacks the stream that was asked of it."""


class MediaEnded(MediaError):
  """A media file that ends before what was asked of it begins."""


class DatasetError(InputError):
  """A prepared dataset, manifest or record that is missing, damaged or does not match."""


class BundleError(InputError):
  """A bundle or run directory that is missing, damaged or does not match."""


class ConfigError(InputError):
  """A gin file, gin binding or constructor argument that does not hold."""


class EncodingError(InputError):
  """A network that failed on a clip: for want of memory, or with values that are not finite."""


class MemoryExhausted(InputError):
  """What was asked for at once does not fit into the device's memory."""


@contextlib.contextmanager
def translated(kind: type[InputError], message: str) -> Iterator[None]:
  """Around what parses a file: whatever a parser makes of a damaged one becomes one sentence.

  Args:
    kind: that is raised.
    message: names the file and says what to do.
  """
  try:
    yield
  except (InputError, MemoryError, FileNotFoundError):
    raise
  except Exception as error:
    first = (str(error).strip().splitlines() or [''])[0][:200]
    raise kind(f'{message} ({first or type(error).__name__})') from error
