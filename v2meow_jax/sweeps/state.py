"""What has become of a piece of work: `state.json` in its folder, and what it said last."""

import contextlib
import json
import pathlib
import re

import msgspec

from v2meow_jax import errors, files

FILE = 'state.json'
LOG = 'log.txt'
_TAIL = 65536  # bytes of a log that last words are looked for in


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
  """See the module's docstring.

  Attributes:
    state: `new`, `running`, `stopped` (it can go on), `failed` or `done`.
    attempts: that came to nothing, in a row.
    seconds: of all attempts together.
    status: exit status of the last one.
    words: its last ones, where it failed.
    until: the training step that `done` speaks of; None: all.
    job: of a cluster, while it is `running` there.
  """

  state: str = 'new'
  attempts: int = 0
  seconds: float = 0.0
  status: int | None = None
  words: str = ''
  until: int | None = None
  job: str = ''

  def done(self, until: int | None = None) -> bool:
    """Whether nothing is left to be done, up to a step or at all."""
    enough = self.until is None or (until is not None and self.until >= until)
    return self.state == 'done' and enough


def read(folder: pathlib.Path) -> State:
  """The state of the work of a folder; new where there is none.

  Raises:
    errors.ConfigError: the file is damaged.
  """
  path = folder / FILE
  if not path.exists():
    return State()
  told = f'{path}: damaged; remove the folder {folder} to run this again'
  with errors.translated(errors.ConfigError, told):
    return msgspec.json.decode(path.read_bytes(), type=State)


def write(folder: pathlib.Path, state: State) -> None:
  """Records the state."""
  folder.mkdir(parents=True, exist_ok=True)
  files.write_text(folder / FILE, json.dumps(msgspec.structs.asdict(state), indent=2) + '\n')


def last_words(folder: pathlib.Path, start: int = 0) -> str:
  """What the work said last: its own sentence, or the last line of a traceback.

  Args:
    folder: of the work.
    start: byte of the log at which the attempt begins.
  """
  with contextlib.suppress(OSError), (folder / LOG).open('rb') as log:
    end = log.seek(0, 2)
    log.seek(max(start, end - _TAIL))
    lines = [line.strip() for line in log.read().decode('utf-8', 'replace').splitlines() if line.strip()]
    own = [line.removeprefix('v2meow: ') for line in lines if line.startswith('v2meow: ')]
    raised = [line for line in lines if re.match(r'[\w.]*(Error|Exception|Interrupt)\b', line)]
    found = (own or raised or lines or [''])[-1]
    return found[:500]
  return ''


def progress(folder: pathlib.Path) -> tuple[str, ...]:
  """What a run has reached: the names of its checkpoints."""
  with contextlib.suppress(OSError):
    return tuple(sorted(path.name for path in (folder / 'run' / 'checkpoints').iterdir()))
  return ()
