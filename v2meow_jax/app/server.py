"""Serves the page until it is told to end; all that it writes lies in one folder, which goes with it."""

import contextlib
import dataclasses
import hmac
import os
import pathlib
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from v2meow_jax import bundles, errors, runtime
from v2meow_jax.generation.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a server does for whom.

  Attributes:
    host, port: where it listens.
    password: that lets people in; None: everybody is let in.
    examples: videos that are offered to try.
    max_seconds: longest piece.
    max_upload, max_stored: bytes of an upload, and of all uploads and results.
    max_waiting: most pieces asked for at once.
    keep_minutes: before uploads and results are deleted.
  """

  host: str
  port: int
  password: bytes | None
  examples: Sequence[pathlib.Path]
  max_seconds: float
  max_upload: int
  max_stored: float
  max_waiting: int
  keep_minutes: float


def serve(
  bundle: pathlib.Path, networks: Mapping[str, str], dtype: str, rows: int, settings: Settings
) -> None:
  """Serves a page for a bundle until SIGINT or SIGTERM.

  Args:
    bundle: its folder.
    networks: places of pretrained networks by encoder; see `Pipeline.load`.
    dtype, rows: of the pipeline.
    settings: of the server.

  Raises:
    errors.InputError: Gradio is not installed, or the bundle cannot be used.
  """
  with _own_folder() as folder:
    # Read by Gradio when it is imported: nothing is told to anyone, and no other process is needed.
    os.environ |= {'GRADIO_ANALYTICS_ENABLED': 'False', 'GRADIO_SSR_MODE': 'False'}
    try:
      # Here, since it is large, an extra, and looks at the environment.
      from v2meow_jax.app import gate, page, studio
    except ImportError as error:
      raise errors.ConfigError('the page needs Gradio; install v2meow-jax with the extra "app"') from error

    runtime.set_up()
    loaded = bundles.load(bundle)
    pipeline = Pipeline.load(loaded, networks=networks, dtype=dtype, rows=rows)
    limits = studio.Limits(settings.max_seconds, settings.keep_minutes)
    app = page.build(pipeline, loaded, limits, settings.examples)
    app.queue(max_size=settings.max_waiting, default_concurrency_limit=1, api_open=False)
    app.launch(
      server_name=settings.host,
      server_port=settings.port,
      auth=None if settings.password is None else lambda _, given: _allowed(given, settings.password),
      auth_message='Any name will do; the password is the one that you were told.',
      max_file_size=settings.max_upload,
      share=False,
      ssr_mode=False,
      mcp_server=False,
      pwa=False,
      run_history=False,
      footer_links=[],
      app_kwargs={'middleware': [(gate.Gate, (folder, settings.max_stored, settings.max_upload), {})]},
      quiet=True,
      prevent_thread_lock=True,
      theme=page.theme(),
      css=page.CSS,
    )
    print(f'http://{settings.host}:{settings.port}', flush=True)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
      signal.signal(number, lambda *_: ended.set())
    while not ended.wait(60):
      _sweep(folder, 60 * settings.keep_minutes)
    app.close(verbose=False)


def _allowed(given: str, password: bytes | None) -> bool:
  return password is not None and hmac.compare_digest(given.encode(), password)


@contextlib.contextmanager
def _own_folder() -> Iterator[str]:
  """All that this process writes: what Gradio keeps in `page`, the rest in `work`; it goes in the end."""
  before = tempfile.tempdir
  with tempfile.TemporaryDirectory(prefix='v2meow_serve_') as folder:
    folder = os.path.realpath(folder)
    os.environ['GRADIO_TEMP_DIR'] = os.path.join(folder, 'page')
    tempfile.tempdir = os.path.join(folder, 'work')
    os.mkdir(os.environ['GRADIO_TEMP_DIR'])
    os.mkdir(tempfile.tempdir)
    try:
      yield folder
    finally:
      tempfile.tempdir = before


def _sweep(folder: str, age: float) -> None:
  """Deletes what was left: parts of uploads that were refused or broke off, pieces, empty folders.

  What Gradio accepted, and the examples, lie in folders within `page`; Gradio deletes what is to go of them.
  """
  page = os.path.join(folder, 'page')

  def old(path: str) -> bool:
    return time.time() - os.stat(path).st_mtime > age

  for place, _, names in os.walk(folder, topdown=False):
    for path in (os.path.join(place, name) for name in names if not place.startswith(page + os.sep)):
      with contextlib.suppress(FileNotFoundError):
        if old(path):
          os.unlink(path)
    if os.path.dirname(place) not in (folder, os.path.dirname(folder)):
      with contextlib.suppress(OSError):  # it is not empty
        if old(place):
          os.rmdir(place)
