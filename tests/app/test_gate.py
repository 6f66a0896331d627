"""What is let in to the page's server: tested in front of an application that takes everything."""

import asyncio
import json

import pytest

httpx = pytest.importorskip('httpx', reason='the page is part of the extra "app"')
gate = pytest.importorskip('v2meow_jax.app.gate', reason='the page is part of the extra "app"')

FULL, LARGEST = 5_000_000, 1_000_000
UPLOAD, JOIN, RUN = '/gradio_api/upload', '/gradio_api/queue/join', '/gradio_api/run/predict'


class Everything:
  """Reads all of a request's body and remembers it; waits meanwhile if it is told to."""

  def __init__(self):
    self.bodies, self.hold = [], None

  async def __call__(self, scope, receive, send):
    if self.hold is not None:
      await self.hold.wait()
    body, message = b'', {'more_body': True}
    while message.get('more_body', False):
      message = await receive()
      if message['type'] == 'http.disconnect':
        self.bodies.append(None)
        raise ConnectionError('they are gone')
      body += message.get('body', b'')
    self.bodies.append(body)
    await send({'type': 'http.response.start', 'status': 200, 'headers': []})
    await send({'type': 'http.response.body', 'body': b'ok'})


@pytest.fixture
def behind():
  return Everything()


@pytest.fixture
def ask(behind, tmp_path):
  """(method, path, ...) -> status."""
  entry = gate.Gate(behind, str(tmp_path), FULL, LARGEST)

  async def asked(*args, **settings):
    transport = httpx.ASGITransport(entry)
    async with httpx.AsyncClient(transport=transport, base_url='http://page') as client:
      return (await client.request(*args, **settings)).status_code

  return asked


def test_what_the_page_asks_for_is_let_in(ask, tmp_path):
  for path in ('/', '/config', '/assets/a.js', '/gradio_api/queue/data?session_hash=a', '/gradio_api/info/'):
    assert asyncio.run(ask('GET', path)) == 200
  assert asyncio.run(ask('GET', f'/gradio_api/file={tmp_path}/page/a.mp4')) == 200
  for path in ('/login', '/gradio_api/cancel', UPLOAD, JOIN, RUN):
    assert asyncio.run(ask('POST', path, content=b'{}')) == 200


@pytest.mark.parametrize(
  ('method', 'path'),
  [
    ('GET', '/gradio_api/file=/etc/hostname'),
    ('GET', '/gradio_api/file={folder}x/a.mp4'),
    ('GET', '/gradio_api/file={folder}'),
    ('GET', '/gradio_api/file=http://169.254.169.254/'),
    ('GET', '/proxy=http://other/'),
    ('GET', '/gradio_api/proxy=http://other/'),
    ('GET', '/docs'),
    ('GET', '/gradio_api/queue/status'),
    ('POST', '/'),
    ('POST', '/gradio_api/process_recording'),
    ('POST', '/gradio_api/vibe-edit'),
    ('POST', '/gradio_api/stream/a'),
    ('POST', '/gradio_api/component_server'),
    ('POST', '/gradio_api/call/work'),
    ('POST', '/gradio_api/run/work'),
    ('PUT', '/config'),
    ('DELETE', '/gradio_api/upload'),
  ],
)
def test_all_else_is_not_there(ask, behind, tmp_path, method, path):
  assert asyncio.run(ask(method, path.format(folder=tmp_path))) == 404
  assert not behind.bodies


def test_a_web_socket_is_closed(behind, tmp_path):
  sent = []

  async def send(message):
    sent.append(message)

  entry = gate.Gate(behind, str(tmp_path), FULL, LARGEST)
  asyncio.run(entry({'type': 'websocket', 'path': '/'}, None, send))
  assert sent == [{'type': 'websocket.close'}] and not behind.bodies


def test_a_body_arrives_as_it_was_sent(ask, behind):
  asyncio.run(ask('POST', UPLOAD, content=b'a' * LARGEST))
  asyncio.run(ask('POST', JOIN, content=json.dumps({'data': [1, {'path': '/a/b.mp4'}]}).encode()))
  assert behind.bodies == [b'a' * LARGEST, b'{"data": [1, {"path": "/a/b.mp4"}]}']


async def _pieces(size):
  for _ in range(size // 50_000):
    yield b'0' * 50_000


@pytest.mark.parametrize('path', [UPLOAD, JOIN, '/login'])
def test_too_large_a_body_is_refused_before_it_is_read(ask, behind, path):
  assert asyncio.run(ask('POST', path, content=b'0' * 1_200_000)) == 413
  assert not behind.bodies


def test_a_body_of_unknown_size_is_broken_off(ask, behind):
  assert asyncio.run(ask('POST', JOIN, content=_pieces(1_200_000))) == 413
  assert not behind.bodies
  with pytest.raises(ConnectionError):
    asyncio.run(ask('POST', UPLOAD, content=_pieces(1_200_000)))
  assert behind.bodies == [None]


@pytest.mark.parametrize('path', [JOIN, RUN])
@pytest.mark.parametrize(
  ('data', 'status'),
  [
    ({'data': [{'path': 'http://169.254.169.254/latest'}]}, 403),
    ({'data': [[{'a': {'path': 'HTTPS://other/a.mp4'}}]]}, 403),
    ({'data': [{'path': '/a/b.mp4', 'url': 'http://page/gradio_api/file=/a/b.mp4'}]}, 200),
    ({'data': ['as in http://example.org']}, 200),
  ],
)
def test_nothing_is_fetched_from_other_servers(ask, path, data, status):
  assert asyncio.run(ask('POST', path, json=data)) == status


def test_what_is_no_json_is_left_to_the_application(ask):
  for body in (b'\xff', b'[' * 100_000):
    assert asyncio.run(ask('POST', JOIN, content=body)) == 200


def test_a_full_folder_takes_nothing_more(ask, tmp_path):
  (tmp_path / 'work').mkdir()
  (tmp_path / 'work' / 'a').write_bytes(b'0' * (FULL - 100_000))
  assert asyncio.run(ask('POST', UPLOAD, content=b'0' * 99_000)) == 200
  assert asyncio.run(ask('POST', UPLOAD, content=b'0' * 101_000)) == 507
  assert asyncio.run(ask('POST', JOIN, content=_pieces(50_000))) == 507  # it may bring a megabyte
  assert asyncio.run(ask('GET', '/config')) == asyncio.run(ask('POST', '/gradio_api/cancel')) == 200


def test_uploads_on_their_way_count(ask, behind):
  async def crowd():
    behind.hold = asyncio.Event()
    asked = [asyncio.ensure_future(ask('POST', UPLOAD, content=b'0' * LARGEST)) for _ in range(7)]
    while sum(one.done() for one in asked) < 2:
      await asyncio.sleep(0.01)
    behind.hold.set()
    return [await one for one in asked]

  assert sorted(asyncio.run(crowd())) == [200] * 5 + [507] * 2
  assert asyncio.run(ask('POST', UPLOAD, content=b'0' * LARGEST)) == 200  # they have come, or gone
