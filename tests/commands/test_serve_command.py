"""`v2meow serve` as people meet it: in a browser, and as those do who mean no good."""

import contextlib
import http.client
import io
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import av
import pytest

from v2meow_jax import terminal
from v2meow_jax.app import server as server_lib
from v2meow_jax.commands import serve

httpx = pytest.importorskip('httpx', reason='the page is part of the extra "app"')
pytest.importorskip('gradio', reason='the page is part of the extra "app"')
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
MEGABYTES = 2


class Server:
  """A server in a process of its own."""

  def __init__(self, bundle, folder, *options):
    with socket.socket() as probe:
      probe.bind(('127.0.0.1', 0))
      self.port = probe.getsockname()[1]
    self.url = f'http://127.0.0.1:{self.port}'
    self.folder, self.log = folder, folder / 'log'
    folder.mkdir()
    arguments = ['--bundle', bundle, '--port', self.port, '--max_megabytes', MEGABYTES, *options]
    with self.log.open('w') as log:
      self.process = subprocess.Popen(
        [sys.executable, '-m', 'v2meow_jax.cli', 'serve', *map(str, arguments)],
        stdout=log, stderr=log, env=os.environ | {'TMPDIR': str(folder)},
      )  # fmt: skip

  def wait(self):
    end = time.monotonic() + 120
    while self.url not in self.log.read_text():
      assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
      time.sleep(0.1)
    return self

  def upload(self, name, data, **settings):
    return httpx.post(f'{self.url}/gradio_api/upload', files={'files': (name, data)}, timeout=60, **settings)

  def stop(self):
    self.process.send_signal(signal.SIGTERM)
    return self.process.wait(timeout=60)


@pytest.fixture(scope='module')
def servers(small_bundle, demo_clip, tmp_path_factory):
  """An open one, and one with a password, starting at the same time."""
  folder = tmp_path_factory.mktemp('serve')
  (folder / 'password').write_text('mjau\n')
  examples = folder / 'examples'
  examples.mkdir()
  shutil.copy(demo_clip, examples)
  made = [
    Server(small_bundle, folder / 'open', '--examples', examples, '--max_seconds', 40),
    Server(small_bundle, folder / 'locked', '--password_file', folder / 'password', '--max_stored', 1.5),
  ]
  yield [server.wait() for server in made]
  for server in made:
    server.process.kill()
    server.process.wait()


@pytest.fixture
def server(servers):
  return servers[0]


@pytest.fixture(scope='module')
def browser():
  playwright = pytest.importorskip('playwright.sync_api')
  if CHROMIUM is None:
    pytest.skip('there is no Chromium on this machine')
  with playwright.sync_playwright() as driver:
    # Root, as in containers, has no sandbox.
    sandbox = [] if os.geteuid() else ['--no-sandbox']
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=sandbox)
    yield browser
    browser.close()


@pytest.fixture
def page(browser, server):
  page = browser.new_page(viewport={'width': 1280, 'height': 1000})
  page.set_default_timeout(60_000)
  page.goto(server.url)
  page.wait_for_selector('#make')
  yield page
  page.close()


def give(page, name, data):
  page.set_input_files('#video input[type=file]', {'name': name, 'mimeType': 'video/mp4', 'buffer': data})
  page.wait_for_selector('#video video', state='attached')


def limit(page, seconds):
  page.get_by_text('More', exact=True).click()
  page.fill('#duration input', str(seconds))
  page.locator('#duration input').blur()


def test_from_upload_to_a_film_that_plays_and_files_that_download(page, server, demo_clip):
  asked = []
  page.on('request', lambda request: asked.append(request.url))
  give(page, demo_clip.name, demo_clip.read_bytes())
  limit(page, 4)
  page.click('#make')
  page.wait_for_selector('#status .stages')
  assert {'semantic', 'coarse', 'fine'} <= set(page.inner_text('#status .stages').split())
  page.wait_for_selector('#film video')
  page.wait_for_function("document.querySelector('#film video').currentTime > 0.5")
  length, width, heard = page.evaluate(
    "(() => { const v = document.querySelector('#film video');"
    'return [v.duration, v.videoWidth, v.webkitAudioDecodedByteCount] })()'
  )
  assert length == pytest.approx(4, abs=0.2) and width == 426 and heard > 0
  assert '4.0 s of music' in page.inner_text('#status')
  links = {}
  for link in page.locator('#files a').all():
    address = link.get_attribute('href')
    links[address.rpartition('.')[2]] = httpx.get(address).content
  assert set(links) == {'mp4', 'wav', 'png', 'json'}
  with av.open(io.BytesIO(links['mp4'])) as film:
    assert film.streams.audio[0].codec_context.name == 'aac'
  assert str(server.folder).encode() not in links['json']
  page.wait_for_function("document.querySelector('#picture img').naturalWidth > 800")
  # Nothing is asked of any other server.
  assert {re.split('[/:]+', url)[1] for url in asked if url.startswith('http')} == {'127.0.0.1'}


def test_an_example_is_there_to_try(page):
  page.locator('.gallery-item, .gallery button').first.click()
  page.wait_for_selector('#video video')


@pytest.mark.parametrize(
  'name, data, reason',
  [
    ('notes.mp4', b'hello', 'not a readable video'),
    ('<img src=x onerror=alert(1)>.mp4', b'hello', 'not a readable video'),
    ('../../../up.mp4', b'\0' * 1000, 'not a readable video'),
    ('list.mp4', b'ffconcat version 1.0\nfile /etc/hostname\n', 'not a readable video'),
  ],
)
def test_what_is_no_video_gets_a_sentence(page, server, name, data, reason):
  page.on('dialog', lambda dialog: pytest.fail('a script ran'))
  give(page, name, data)
  page.click('#make')
  page.wait_for_selector('#status .refused')
  told = page.inner_text('#status')
  assert reason in told and str(server.folder) not in told
  assert not page.locator('#status img').count()


def test_limits_are_told(page, demo_clip):
  page.click('#make')
  page.wait_for_selector('#status .refused')
  assert 'upload one' in page.inner_text('#status')
  give(page, demo_clip.name, demo_clip.read_bytes())
  limit(page, -3)
  page.click('#make')
  page.wait_for_function("document.querySelector('#status').innerText.includes('not a positive time')")


def test_stop_ends_it(page, demo_clip):
  give(page, demo_clip.name, demo_clip.read_bytes())
  page.click('#make')
  page.wait_for_selector('#status .stages')
  page.click('#stop')
  page.wait_for_function("document.querySelector('#status').innerText.includes('Stopped')")
  page.wait_for_timeout(1500)
  assert 'Stopped' in page.inner_text('#status') and not page.locator('#film video').count()
  assert not any(element.is_visible() for element in page.locator('.error').all())


def test_large_uploads_are_refused_and_the_server_goes_on(server):
  answer = None
  with contextlib.suppress(httpx.WriteError):  # it may hang up before all of it is sent
    answer = server.upload('big.mp4', b'0' * (MEGABYTES * 2**20 + 1))
  assert answer is None or answer.status_code == 413
  assert server.upload('small.mp4', b'0' * (MEGABYTES * 2**20 - 1)).status_code == 200
  assert not [path for path in server.folder.rglob('*') if path.stat().st_size > MEGABYTES * 2**20]


@pytest.mark.parametrize('name', ['../../../../evil.mp4', '/evil.mp4', '..', 'a\nb.mp4', 'x' * 5000, '\0'])
def test_names_of_uploads_lead_nowhere(server, name):
  answer = server.upload(name, b'evil')
  assert answer.status_code in (200, 400, 413)
  (inside,) = server.folder.glob('v2meow_serve_*')
  around = [path for path in server.folder.parent.rglob('*') if path.is_file()]
  assert all(path.is_relative_to(inside) for path in around if path.read_bytes() == b'evil')
  if answer.status_code == 200:
    assert pathlib.Path(answer.json()[0]).is_relative_to(inside)
  assert httpx.get(server.url).status_code == 200


def test_files_of_this_machine_are_out_of_reach(server, small_bundle, demo_clip):
  for path in ('/etc/hostname', small_bundle / 'bundle.json', demo_clip):
    assert httpx.get(f'{server.url}/gradio_api/file={path}').status_code == 404
  (inside,) = server.folder.glob('v2meow_serve_*')
  for path in (f'{inside}/../log', f'{inside}/page/..%2f../log', f'{inside}/page/%2e%2e/%2e%2e/log'):
    around = http.client.HTTPConnection('127.0.0.1', server.port)  # which leaves the dots as they are
    around.request('GET', f'/gradio_api/file={path}')
    assert around.getresponse().status in (403, 404)
  functions = httpx.get(f'{server.url}/config').json()['dependencies']
  work = next(function for function in functions if function['api_name'] == 'work')
  inputs = [{'path': str(demo_clip), 'meta': {'_type': 'gradio.FileData'}}] + [1] * (len(work['inputs']) - 1)
  body = {'data': inputs, 'fn_index': work['id'], 'session_hash': 'stranger'}
  assert httpx.post(f'{server.url}/gradio_api/queue/join', json=body).status_code == 200
  with httpx.stream('GET', f'{server.url}/gradio_api/queue/data?session_hash=stranger', timeout=60) as answer:
    last = next(line for line in answer.iter_lines() if 'process_completed' in line)
  assert '"success":false' in last


def test_it_listens_on_this_machine_alone(server):
  listening = pathlib.Path('/proc/net/tcp').read_text().splitlines()[1:]
  ours = [line.split() for line in listening if line.split()[1].endswith(f':{server.port:04X}')]
  assert {address for _, address, _, state, *_ in ours if state == '0A'} == {f'0100007F:{server.port:04X}'}


def test_a_password_is_asked_for(servers):
  locked = servers[1]
  assert locked.upload('a.mp4', b'0').status_code == 401
  assert httpx.get(f'{locked.url}/config').status_code == 401
  with httpx.Client(base_url=locked.url) as client:
    assert client.post('/login', data={'username': 'me', 'password': 'woof'}).status_code == 400
    assert client.get('/config').status_code == 401
    assert client.post('/login', data={'username': 'me', 'password': 'mjau'}).status_code == 200
    assert client.get('/config').status_code == 200


def test_no_uploads_where_there_is_no_room(servers):
  locked = servers[1]
  with httpx.Client(base_url=locked.url) as client:
    client.post('/login', data={'username': 'me', 'password': 'mjau'})
    send = {'files': {'files': ('a.mp4', b'0' * 2**20)}}
    assert [client.post('/gradio_api/upload', **send).status_code for _ in range(2)] == [200, 507]
    assert client.get('/config').status_code == 200


def test_it_ends_in_order_and_leaves_nothing(servers):
  locked = servers[1]
  assert list(locked.folder.glob('v2meow_serve_*'))
  assert locked.stop() == 0
  assert [path.name for path in locked.folder.iterdir()] == ['log']


@pytest.mark.parametrize(
  'options, reason',
  [
    (('--max_seconds', '0'), 'max_seconds'),
    (('--port', '70000'), 'port'),
    (('--host', '::1'), 'host'),
    (('--examples', 'nowhere'), 'no such folder'),
    (('--password_file', 'nowhere'), 'nowhere'),
    (('--bundle', 'nowhere'), 'bundle.json'),
  ],
)
def test_bad_options_get_a_sentence(small_bundle, options, reason, capsys):
  assert terminal.run(serve.main, ['--bundle', str(small_bundle), *options]) == 2
  assert reason in capsys.readouterr().err


def test_a_port_that_is_taken(small_bundle, server, capsys):
  assert terminal.run(serve.main, ['--bundle', str(small_bundle), '--port', str(server.port)]) == 2
  assert str(server.port) in capsys.readouterr().err


def test_what_was_left_is_swept_when_old(tmp_path):
  page, work = tmp_path / 'page', tmp_path / 'work'
  broken, coming = page / 'tmp1', page / 'tmp2'
  accepted, left, making = page / 'hash' / 'a.mp4', work / 'piece1' / 'a.wav', work / 'piece2' / 'a.wav'
  emptied = page / 'other'
  for path in (broken, coming, accepted, left, making, emptied / 'a'):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'0')
  (emptied / 'a').unlink()
  for path in (broken, accepted, left, emptied):
    os.utime(path, (0, 0))
  server_lib._sweep(str(tmp_path), 60)
  assert not any(path.exists() for path in (broken, left, emptied))
  assert all(path.exists() for path in (coming, accepted, making))
  os.utime(left.parent, (0, 0))
  server_lib._sweep(str(tmp_path), 60)
  assert not left.parent.exists() and page.exists() and work.exists()


def test_all_that_is_written_lies_in_one_folder_that_goes(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  monkeypatch.setenv('GRADIO_TEMP_DIR', 'elsewhere')
  with server_lib._own_folder() as folder:
    handle, path = tempfile.mkstemp()
    os.close(handle)
    assert pathlib.Path(path).is_relative_to(folder)
    assert pathlib.Path(os.environ['GRADIO_TEMP_DIR']).is_relative_to(folder)
  assert not list(tmp_path.iterdir()) and tempfile.tempdir == str(tmp_path)
