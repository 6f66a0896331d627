"""`v2meow serve`: a page on which people make music for their videos."""

import argparse
import contextlib
import hmac
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from v2meow_jax import cli, compiled, errors
from v2meow_jax.media import probe

LOCAL = ('127.0.0.1', 'localhost')


def main(argv: list[str] | None = None) -> int:
  """Serves a page for one bundle: upload a video, watch the stages at work, see and download the result."""
  parser = argparse.ArgumentParser(prog='v2meow serve', description=main.__doc__)
  parser.add_argument('--bundle', type=pathlib.Path, required=True, help='what v2meow export wrote')
  parser.add_argument('--host', default=LOCAL[0], help='address to listen on; this machine alone by default')
  parser.add_argument('--port', type=int, default=7860)
  parser.add_argument('--password_file', type=pathlib.Path, help='its first line lets people in')
  parser.add_argument('--examples', type=pathlib.Path, help='folder of videos that are offered to try')
  parser.add_argument('--max_seconds', type=float, default=300, help='longest piece')
  parser.add_argument('--max_megabytes', type=float, default=200, help='largest upload')
  parser.add_argument('--max_stored', type=float, default=4000, help='megabytes of uploads and results')
  parser.add_argument('--max_waiting', type=int, default=16, help='most pieces asked for at once')
  parser.add_argument('--keep_minutes', type=float, default=60, help='before uploads and results are deleted')
  parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='of the stages')
  parser.add_argument('--rows', type=int, default=16, help='most windows decoded at once')
  parser.add_argument('--clap', help='folder or id of the CLAP model, where not the one in the bundle')
  args = parser.parse_args(argv)
  for name in ('max_seconds', 'max_megabytes', 'max_stored', 'max_waiting', 'keep_minutes'):
    if not 0 < getattr(args, name) < float('inf'):
      raise errors.ConfigError(f'--{name}: {getattr(args, name):g} is not a positive number')
  if not 0 < args.port < 2**16:
    raise errors.ConfigError(f'--port: {args.port} is not between 1 and 65535')
  if ':' in args.host:
    raise errors.ConfigError(f'--host: {args.host} is not a name or an IPv4 address')
  examples = probe.videos_in(args.examples) if args.examples else []
  password = _password(args.password_file)
  if password is None and args.host not in LOCAL:
    print(f'v2meow: whoever reaches {args.host} can use this page; see --password_file', file=sys.stderr)

  signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the page is there, as Ctrl-C ends it
  with _own_folder() as folder:
    # Read by Gradio when it is imported: nothing is told to anyone, and no other process is needed.
    os.environ |= {'GRADIO_ANALYTICS_ENABLED': 'False', 'GRADIO_SSR_MODE': 'False'}
    try:
      import gradio  # noqa: F401
    except ImportError as error:
      raise errors.ConfigError('the page needs Gradio; install v2meow-jax with the extra "app"') from error
    from v2meow_jax import bundle, gate, page, studio

    compiled.keep()
    loaded = bundle.load(args.bundle)
    pipeline = loaded.pipeline(dtype=args.dtype, rows=args.rows, clap=args.clap)
    limits = studio.Limits(args.max_seconds, args.keep_minutes)
    largest = round(args.max_megabytes * 2**20)
    app = page.build(pipeline, loaded, limits, examples)
    app.queue(max_size=args.max_waiting, default_concurrency_limit=1, api_open=False)
    app.launch(
      server_name=args.host,
      server_port=args.port,
      auth=None if password is None else lambda _, given: hmac.compare_digest(given.encode(), password),
      auth_message='Any name will do; the password is the one that you were told.',
      max_file_size=largest,
      share=False,
      ssr_mode=False,
      mcp_server=False,
      pwa=False,
      run_history=False,
      footer_links=[],
      app_kwargs={'middleware': [(gate.Gate, (folder, args.max_stored * 2**20, largest), {})]},
      quiet=True,
      prevent_thread_lock=True,
      theme=page.theme(),
      css=page.CSS,
    )
    print(f'http://{args.host}:{args.port}', flush=True)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
      signal.signal(number, lambda *_: ended.set())
    while not ended.wait(60):
      _sweep(folder, 60 * args.keep_minutes)
    app.close(verbose=False)
  return 0


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


def _password(path: pathlib.Path | None) -> bytes | None:
  if path is None:
    return None
  try:
    lines = path.read_text().splitlines()
  except UnicodeDecodeError as error:
    raise errors.ConfigError(f'{path}: not text') from error
  if not lines or not lines[0].strip():
    raise errors.ConfigError(f'{path}: the first line, the password, is empty')
  return lines[0].strip().encode()


if __name__ == '__main__':
  sys.exit(cli.run(main, sys.argv[1:]))
