"""`v2meow serve`: a page on which people make music for their videos."""

import argparse
import pathlib
import signal

from v2meow_jax import errors, terminal
from v2meow_jax.app import server
from v2meow_jax.commands import network_options
from v2meow_jax.media import folder

LOCAL = ('127.0.0.1', 'localhost')


def main(argv: list[str]) -> int:
  """Serves a page for one bundle: upload a video, watch the stages at work, see and download the result."""
  parser = argparse.ArgumentParser(prog='v2meow serve', description=main.__doc__)
  parser.add_argument('--bundle', type=terminal.any_path, required=True, help='what v2meow export wrote')
  parser.add_argument('--host', default=LOCAL[0], help='address to listen on; this machine alone by default')
  parser.add_argument('--port', type=int, default=7860)
  parser.add_argument('--password_file', type=terminal.local_path, help='its first line lets people in')
  parser.add_argument('--examples', type=terminal.local_path, help='folder of videos that are offered to try')
  parser.add_argument('--max_seconds', type=terminal.number, default=300, help='longest piece')
  parser.add_argument('--max_megabytes', type=terminal.number, default=200, help='largest upload')
  parser.add_argument(
    '--max_stored', type=terminal.number, default=4000, help='megabytes of uploads and results'
  )
  parser.add_argument('--max_waiting', type=int, default=16, help='most pieces asked for at once')
  parser.add_argument(
    '--keep_minutes', type=terminal.number, default=60, help='before uploads and results are deleted'
  )
  parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='of the stages')
  parser.add_argument('--rows', type=int, default=16, help='most windows decoded at once')
  network_options.add(parser)
  args = parser.parse_args(argv)
  for name in ('max_seconds', 'max_megabytes', 'max_stored', 'max_waiting', 'keep_minutes'):
    if not 0 < getattr(args, name) < float('inf'):
      raise errors.ConfigError(f'--{name}: {getattr(args, name):g} is not a positive number')
  if not 0 < args.port < 2**16:
    raise errors.ConfigError(f'--port: {args.port} is not between 1 and 65535')
  if ':' in args.host:
    raise errors.ConfigError(f'--host: {args.host} is not a name or an IPv4 address')
  examples = folder.look(args.examples)[0] if args.examples else []
  password = _password(args.password_file)
  if password is None and args.host not in LOCAL:
    terminal.say_error(f'whoever reaches {args.host} can use this page; see --password_file')
  signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the page is there, as Ctrl-C ends it
  settings = server.Settings(
    host=args.host,
    port=args.port,
    password=password,
    examples=examples,
    max_seconds=args.max_seconds,
    max_upload=round(args.max_megabytes * 2**20),
    max_stored=args.max_stored * 2**20,
    max_waiting=args.max_waiting,
    keep_minutes=args.keep_minutes,
  )
  server.serve(args.bundle, network_options.chosen(args), args.dtype, args.rows, settings)
  return 0


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
