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
from typing import Any

from v2meow_jax import cli, compiled, errors
from v2meow_jax.media import probe

LOCAL = ('127.0.0.1', 'localhost', '::1')


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
  examples = probe.videos_in(args.examples) if args.examples else []
  password = _password(args.password_file)
  if password is None and args.host not in LOCAL:
    print(f'v2meow: whoever reaches {args.host} can use this page; see --password_file', file=sys.stderr)

  with tempfile.TemporaryDirectory(prefix='v2meow_serve_') as folder:
    # Read by Gradio when it is imported: uploads stay in a folder that goes when the page does, nothing is
    # told to anyone, and no other process is needed.
    os.environ |= {'GRADIO_TEMP_DIR': folder, 'GRADIO_ANALYTICS_ENABLED': 'False', 'GRADIO_SSR_MODE': 'False'}
    try:
      import gradio  # noqa: F401
    except ImportError as error:
      raise errors.ConfigError('the page needs Gradio; install v2meow-jax with the extra "app"') from error
    from v2meow_jax import bundle, page, studio

    compiled.keep()
    loaded = bundle.load(args.bundle)
    pipeline = loaded.pipeline(dtype=args.dtype, rows=args.rows, clap=args.clap)
    limits = studio.Limits(args.max_seconds, args.keep_minutes)
    app = page.build(pipeline, loaded, limits, examples)
    app.queue(max_size=args.max_waiting, default_concurrency_limit=1, api_open=False)
    app.launch(
      server_name=args.host,
      server_port=args.port,
      auth=None if password is None else lambda _, given: hmac.compare_digest(given.encode(), password),
      auth_message='Any name will do; the password is the one that you were told.',
      max_file_size=round(args.max_megabytes * 2**20),
      share=False,
      ssr_mode=False,
      mcp_server=False,
      pwa=False,
      run_history=False,
      footer_links=[],
      app_kwargs={'middleware': [(_Room, (folder, args.max_stored * 2**20), {})]},
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


class _Room:
  """ASGI middleware: no uploads while the folder is full."""

  def __init__(self, app: Any, folder: str, most: float):
    self.app, self.folder, self.most = app, folder, most

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    uploads = scope['type'] == 'http' and scope['method'] == 'POST' and scope['path'].endswith('/upload')
    if uploads and _stored(self.folder) > self.most:
      from starlette.responses import PlainTextResponse

      answer = PlainTextResponse('There is no room left here; try again later.', 507)
      await answer(scope, receive, send)
    else:
      await self.app(scope, receive, send)


def _stored(folder: str) -> int:
  """Bytes of the files in a folder, of which some may go meanwhile."""
  total = 0
  for path in pathlib.Path(folder).rglob('*'):
    with contextlib.suppress(FileNotFoundError):
      total += path.stat().st_size
  return total


def _sweep(folder: str, age: float) -> None:
  """Deletes parts of uploads that were refused or broke off; Gradio deletes what it accepted."""
  for path in pathlib.Path(folder).iterdir():
    with contextlib.suppress(FileNotFoundError):
      if path.is_file() and time.time() - path.stat().st_mtime > age:
        path.unlink()


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
