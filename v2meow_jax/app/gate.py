"""What the page's server lets in: the few requests that the page itself makes, none of them too large."""

import contextlib
import json
import os
from typing import Any

from starlette.responses import PlainTextResponse

_API = '/gradio_api'
# Gradio answers far more: it converts recordings, keeps state, and hands requests on to other servers.
_READ = {
  '/', '/config', '/theme.css', '/favicon.ico', '/robots.txt', '/manifest.json', '/logout',
  *(f'{_API}/{name}' for name in (
    'app_id', 'info', 'login_check', 'queue/data', 'startup-events', 'theme.css', 'token', 'upload_progress',
    'user',
  )),
}  # fmt: skip
_READ_BELOW = ('/assets/', '/static/', '/svelte/', f'{_API}/heartbeat/')
_UPLOAD = f'{_API}/upload'
_CALLS = {f'{_API}/queue/join', f'{_API}/run/predict'}  # by the second: functions that do not queue alone
_WRITE = {'/login', f'{_API}/cancel', f'{_API}/reset', _UPLOAD, *_CALLS}
_SMALL = 2**20  # bytes of any request that is no upload
_AROUND = 2**16  # bytes around the file in an upload


class Gate:
  """ASGI middleware.

  Args:
    app: behind it.
    folder: of uploads and results; nothing else is served from the disk, but what Gradio brings along.
    most: bytes that the folder may hold.
    upload: bytes of the largest file.
  """

  def __init__(self, app: Any, folder: str, most: float, upload: int):
    self.app, self._folder, self._most, self._upload = app, folder, most, upload
    self._coming = 0  # bytes that uploads on their way may yet bring

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    if scope['type'] == 'lifespan':
      await self.app(scope, receive, send)
    elif scope['type'] != 'http' or not self._known(scope['method'], scope['path'].rstrip('/') or '/'):
      await self._refuse(scope, receive, send, 404, 'Not Found')
    elif scope['method'] == 'POST':
      await self._take(scope, receive, send)
    else:
      await self.app(scope, receive, send)

  def _known(self, method: str, path: str) -> bool:
    if method == 'POST':
      return path in _WRITE
    files = (*_READ_BELOW, f'{_API}/file={self._folder}{os.sep}')
    return method in ('GET', 'HEAD') and (path in _READ or path.startswith(files))

  async def _take(self, scope: Any, receive: Any, send: Any) -> None:
    """Hands on what a request brings, as far as it may bring it."""
    path = scope['path'].rstrip('/')
    most = self._upload + _AROUND if path == _UPLOAD else _SMALL
    told = dict(scope['headers']).get(b'content-length', b'')
    size = int(told) if told.isdigit() else most
    if size > most:
      return await self._refuse(scope, receive, send, 413, 'This is too large.')
    if path in {_UPLOAD, *_CALLS} and stored(self._folder) + self._coming + size > self._most:
      return await self._refuse(scope, receive, send, 507, 'There is no room left here; try again later.')
    if path != _UPLOAD:
      body = await _whole(receive, most)
      if body is None:
        return await self._refuse(scope, receive, send, 413, 'This is too large.')
      if path in _CALLS and _names_servers(body):
        return await self._refuse(scope, receive, send, 403, 'Nothing is fetched from other servers here.')
      return await self.app(scope, _again(body, receive), send)
    self._coming += size
    try:
      await self.app(scope, _counted(receive, most), send)
    finally:
      self._coming -= size

  async def _refuse(self, scope: Any, receive: Any, send: Any, status: int, reason: str) -> None:
    if scope['type'] == 'websocket':
      await send({'type': 'websocket.close'})
    else:
      await PlainTextResponse(reason, status)(scope, receive, send)


def stored(folder: str | os.PathLike) -> int:
  """Bytes of the files in a folder, of which some may go meanwhile."""
  total = 0
  for place, _, names in os.walk(folder):
    for name in names:
      with contextlib.suppress(FileNotFoundError):
        total += os.stat(os.path.join(place, name)).st_size
  return total


async def _whole(receive: Any, most: int) -> bytes | None:
  """A request's body; None where it is larger than `most`."""
  body, more = bytearray(), True
  while more:
    message = await receive()
    body += message.get('body', b'')
    more = message.get('more_body', False)
    if len(body) > most:
      return None
  return bytes(body)


def _again(body: bytes, receive: Any) -> Any:
  """Gives a body that was read already, and then what comes after it."""
  given = False

  async def next_message() -> dict:
    nonlocal given
    if given:
      return await receive()
    given = True
    return {'type': 'http.request', 'body': body, 'more_body': False}

  return next_message


def _counted(receive: Any, most: int) -> Any:
  """Breaks off a body that is larger than was told, as if whoever sends it had gone."""
  seen = 0

  async def next_message() -> dict:
    nonlocal seen
    message = await receive()
    seen += len(message.get('body', b''))
    return message if seen <= most else {'type': 'http.disconnect'}

  return next_message


def _names_servers(body: bytes) -> bool:
  """Whether a file that is spoken of lies on another server; Gradio would fetch it, whatever its size."""
  try:
    waiting = [json.loads(body)]
  except (ValueError, RecursionError):
    return False  # told by the application
  while waiting:
    value = waiting.pop()
    if isinstance(value, list):
      waiting += value
    elif isinstance(value, dict):
      if '://' in str(value.get('path', '')):
        return True
      waiting += value.values()
  return False
