"""A fake object store: whole objects only, no rename, no append. `gs://` paths of a process lead to it.

Python's files (`etils.epath`) come in through fsspec, TensorStore's arrays through the part of Google Cloud
Storage's JSON interface that TensorStore uses, over HTTP; both see the same objects.

Call `begin()` before anything else is imported that may open a path.
"""

import http.server
import json
import os
import re
import threading
import urllib.parse

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

refused: list[str] = []  # what was asked for that an object store does not have


def _refuse(what: str):
  refused.append(what)
  raise OSError(f'the object store has no {what}')


class ObjectFiles(MemoryFileSystem):
  """fsspec's memory, by the name of `gs`, without what object stores lack."""

  protocol = ('gs', 'gcs')
  store: dict = {}  # noqa: RUF012 (fsspec's own way of sharing)
  pseudo_dirs = ['']  # noqa: RUF012

  @classmethod
  def _strip_protocol(cls, path):
    return '/' + re.sub('^(gs|gcs)://', '', str(path)).strip('/') if path else ''

  def mv(self, path1, path2, **kwargs):
    _refuse('rename')

  mv_file = move = rename = mv

  def _open(self, path, mode='rb', **kwargs):
    if 'a' in mode or '+' in mode:
      _refuse('append')
    return super()._open(path, mode, **kwargs)


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'

  def log_message(self, *args):
    pass

  def _answer(self, status: int, body: bytes = b'', generation: int | None = None) -> None:
    self.send_response(status)
    self.send_header('Content-Length', str(len(body)))
    if generation is not None:
      self.send_header('x-goog-generation', str(generation))
    self.end_headers()
    self.wfile.write(body)

  def _request(self):
    parts = urllib.parse.urlsplit(self.path)
    match = re.fullmatch(r'(?:/upload)?/storage/v1/b/([^/]+)/o(?:/(.+))?', parts.path)
    assert match, self.path
    query = dict(urllib.parse.parse_qsl(parts.query))
    name = urllib.parse.unquote(match[2]) if match[2] else query.get('name', '')
    return f'/{match[1]}/', name, query

  def _generation(self, path: str) -> int:
    found = self.server.generations.get(path)  # type: ignore[attr-defined]
    return found or (1 if path in ObjectFiles.store else 0)

  def do_GET(self):
    bucket, name, query = self._request()
    if not name:
      prefix = bucket + query.get('prefix', '')
      names = sorted(path for path in ObjectFiles.store if path.startswith(prefix))
      items = [{'name': path.removeprefix(bucket), 'size': '0', 'generation': '1'} for path in names]
      return self._answer(200, json.dumps({'items': items}).encode())
    path = bucket + name
    if path not in ObjectFiles.store:
      return self._answer(404)
    data, generation = ObjectFiles.store[path].getvalue(), self._generation(path)
    if query.get('ifGenerationNotMatch') == str(generation):
      return self._answer(304)
    if query.get('alt') != 'media':
      return self._answer(200, json.dumps({'name': name, 'generation': str(generation)}).encode())
    wanted = re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range', ''))
    if not wanted:
      return self._answer(200, data, generation)
    size = len(data)
    start = int(wanted[1]) if wanted[1] else size - int(wanted[2])
    stop = min(int(wanted[2]) + 1, size) if wanted[1] and wanted[2] else size
    self.send_response(206)
    self.send_header('Content-Range', f'bytes {start}-{stop - 1}/{size}')
    self.send_header('Content-Length', str(stop - start))
    self.send_header('x-goog-generation', str(generation))
    self.end_headers()
    return self.wfile.write(data[start:stop])

  def do_POST(self):
    bucket, name, query = self._request()
    data = self.rfile.read(int(self.headers.get('Content-Length', 0)))
    path = bucket + name
    if '/rewriteTo/' in self.path or '/copyTo/' in self.path or 'uploadType' not in query:
      refused.append(self.path)
      return self._answer(501)
    generation = self._generation(path)
    if query.get('ifGenerationMatch', str(generation)) != str(generation):
      return self._answer(412)
    ObjectFiles().pipe_file('gs:/' + path, data)
    self.server.generations[path] = generation + 1  # type: ignore[attr-defined]
    return self._answer(200, json.dumps({'name': name, 'generation': str(generation + 1)}).encode())

  def do_DELETE(self):
    bucket, name, _ = self._request()
    return self._answer(204 if ObjectFiles.store.pop(bucket + name, None) else 404)


def begin() -> None:
  """Starts the store in this process and leads `gs://` to it."""
  server = http.server.ThreadingHTTPServer(('localhost', 0), _Handler)
  server.generations = {}  # type: ignore[attr-defined]
  threading.Thread(target=server.serve_forever, daemon=True).start()
  os.environ['TENSORSTORE_GCS_HTTP_URL'] = f'http://localhost:{server.server_port}'
  os.environ['GOOGLE_AUTH_TOKEN_FOR_TESTING'] = 'anybody'
  os.environ['EPATH_USE_TF'] = 'false'
  for name in ObjectFiles.protocol:
    fsspec.register_implementation(name, ObjectFiles, clobber=True)
  # Orbax asks Google's own library, which would ask Google, whether the bucket has real folders.
  from orbax.checkpoint._src.path import gcs_utils

  gcs_utils.is_hierarchical_namespace_enabled = lambda *_: False
