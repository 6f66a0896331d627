"""Servers of both kinds of object store as processes of their own, behind a proxy that can fail.

`moto` speaks S3, `gcp-storage-emulator` Google's JSON interface: the clients are the real ones.
"""

import contextlib
import http.client
import http.server
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator

FAULTS = ('503', 'slow', 'cut')


class Proxy(http.server.ThreadingHTTPServer):
  """Hands requests on to a server, counts them, and lets a share of the answers to reads fail.

  Attributes:
    share: of the answers that fail.
    faults: kinds of those that have failed.
    delay: seconds that each answer to a read comes late.
    remembered: whole objects, out of which ranges are answered; None: ask the server each time.
    requests, sent: reads answered, and bytes in them.
  """

  daemon_threads = True

  def __init__(self, target: int, generations: 'Generations | None' = None):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.target, self.share, self.faults = target, 0.0, []
    self.generations, self.delay = generations, 0.0
    self.remembered: dict[str, bytes] | None = None
    self.requests, self.sent = 0, 0
    self.random, self.lock = random.Random(0), threading.Lock()
    threading.Thread(target=self.serve_forever, daemon=True).start()

  @property
  def url(self) -> str:
    return f'http://127.0.0.1:{self.server_address[1]}'

  def fault(self) -> str | None:
    with self.lock:
      if self.random.random() >= self.share:
        return None
      self.faults.append(self.random.choice(FAULTS))
      return self.faults[-1]


class Generations:
  """Numbers of the versions of objects, and conditions on them, which Google's emulator lacks."""

  def __init__(self):
    self.known, self.count, self.lock = {}, 1, threading.Lock()

  def refused(self, name: str, query: dict[str, list[str]]) -> int:
    """The status where a condition does not hold; 0 where all do."""
    now = self.known.get(name, 0)
    if 'ifGenerationMatch' in query and int(query['ifGenerationMatch'][0]) != now:
      return 412
    if 'ifGenerationNotMatch' in query and int(query['ifGenerationNotMatch'][0]) == now:
      return 304
    return 0

  def written(self, name: str) -> int:
    """The number of a new version."""
    with self.lock:
      self.count += 1
      self.known[name] = self.count
    return self.known[name]


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  server: Proxy

  def log_message(self, *arguments) -> None:
    pass

  def _forward(self) -> None:
    length = int(self.headers.get('Content-Length') or 0)
    if 'chunked' in self.headers.get('Transfer-Encoding', ''):
      body = b''.join(self._chunks())
    else:
      body = self.rfile.read(length)
    fault = self.server.fault() if self.command == 'GET' else None
    if self.command == 'GET':
      time.sleep(self.server.delay)
    if fault == '503':
      self._answer(503, [], b'<Error><Code>SlowDown</Code></Error>')
      return
    if fault == 'slow':
      time.sleep(0.5)
    numbers, parts = self.server.generations, urllib.parse.urlsplit(self.path)
    query = urllib.parse.parse_qs(parts.query)
    upload = parts.path.startswith('/upload')
    name = query.get('name', [''])[0] if upload else urllib.parse.unquote(parts.path.partition('/o/')[2])
    if numbers and name and (status := numbers.refused(name, query)):
      self._answer(status, [], b'')
      return
    if self.server.remembered is not None and 'Range' in self.headers:
      self._answer_range(self.server.remembered)
      return
    upstream = http.client.HTTPConnection('127.0.0.1', self.server.target, timeout=60)
    dropped = ('transfer-encoding', 'content-length', 'connection')
    headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
    upstream.request(self.command, self.path, body, headers | {'Content-Length': str(len(body))})
    answer = upstream.getresponse()
    data = answer.read()
    upstream.close()
    if self.command == 'GET':
      with self.server.lock:
        self.server.requests += 1
        self.server.sent += len(data)
    kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in dropped]
    if numbers and upload and data:  # the first answer of an upload in parts has nothing in it
      told = json.loads(data)
      data = json.dumps(told | {'generation': str(numbers.written(told['name']))}).encode()
    elif numbers and name and answer.status // 100 == 2:
      if self.command == 'DELETE':
        numbers.known.pop(name, None)
      else:
        kept.append(('x-goog-generation', str(numbers.known.get(name, 1))))
    self._answer(answer.status, kept, data, answer.getheader('Content-Length'), cut=fault == 'cut')

  def _answer_range(self, remembered: dict[str, bytes]) -> None:
    if self.path not in remembered:
      given = {name: value for name, value in self.headers.items() if name.lower() not in ('range', 'host')}
      request = urllib.request.Request(f'http://127.0.0.1:{self.server.target}{self.path}', headers=given)
      with urllib.request.urlopen(request) as answer:
        remembered[self.path] = answer.read()
    whole = remembered[self.path]
    first, last = (int(end) for end in self.headers['Range'].removeprefix('bytes=').split('-'))
    span = ('Content-Range', f'bytes {first}-{last}/{len(whole)}')
    self._answer(206, [span], whole[first : last + 1])

  def _chunks(self) -> Iterator[bytes]:
    while size := int(self.rfile.readline().split(b';')[0], 16):
      yield self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()

  def _answer(self, status: int, headers, data: bytes, length: str | None = None, cut: bool = False) -> None:
    self.send_response(status)
    for name, value in headers:
      if name.lower() not in ('server', 'date'):
        self.send_header(name, value)
    head = self.command == 'HEAD'
    self.send_header('Content-Length', (length or '0') if head else str(len(data)))
    self.end_headers()
    if not head:
      self.wfile.write(data[: len(data) // 2] if cut else data)
    if cut:
      self.close_connection = True

  do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _forward


def _free_port() -> int:
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    return taken.getsockname()[1]


@contextlib.contextmanager
def store(scheme: str) -> Iterator[tuple[str, Proxy, dict[str, str]]]:
  """(address of a bucket, proxy, environment) of a running server of `s3` or `gs`."""
  port = _free_port()
  where = os.path.dirname(sys.executable)
  command = {
    's3': [os.path.join(where, 'moto_server'), '-H', '127.0.0.1', '-p', str(port)],
    'gs': [
      os.path.join(where, 'gcp-storage-emulator'),
      'start',
      '--host=127.0.0.1',
      f'--port={port}',
      '--in-memory',
    ],
  }[scheme]
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  proxy = None
  try:
    _wait(port, process)
    proxy = Proxy(port, Generations() if scheme == 'gs' else None)
    if scheme == 's3':
      _post(f'http://127.0.0.1:{port}/bucket', b'', method='PUT')
      environment = {
        'AWS_ENDPOINT_URL': proxy.url,
        'AWS_ACCESS_KEY_ID': 'none',
        'AWS_SECRET_ACCESS_KEY': 'none',
        'AWS_DEFAULT_REGION': 'us-east-1',
      }
    else:
      _post(f'http://127.0.0.1:{port}/storage/v1/b?project=none', json.dumps({'name': 'bucket'}).encode())
      environment = {'STORAGE_EMULATOR_HOST': proxy.url, 'TENSORSTORE_GCS_HTTP_URL': proxy.url}
    yield f'{scheme}://bucket', proxy, environment
  finally:
    if proxy:
      proxy.shutdown()
    process.kill()
    process.wait()


def _wait(port: int, process: subprocess.Popen) -> None:
  for _ in range(600):
    if process.poll() is not None:
      raise RuntimeError(f'the server ended with {process.returncode}')
    try:
      socket.create_connection(('127.0.0.1', port), 1).close()
      return
    except OSError:
      time.sleep(0.1)
  raise RuntimeError('the server does not start')


def _post(url: str, data: bytes, method: str = 'POST') -> None:
  request = urllib.request.Request(url, data, {'Content-Type': 'application/json'}, method=method)
  urllib.request.urlopen(request).read()
