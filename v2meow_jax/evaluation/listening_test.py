"""A static page on which people say which of two pieces they prefer; nothing on it says who made which."""

import dataclasses
import hashlib
import html
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from v2meow_jax import errors, files
from v2meow_jax.evaluation import subjects
from v2meow_jax.evaluation.page import STYLE, mp3
from v2meow_jax.media import audio as audio_files
from v2meow_jax.media import loudness

LOUDNESS = -23.0  # LUFS, EBU R 128: low enough that no peak stops music from reaching it
QUESTION = 'Which music fits the video better?'
QUESTION_ALONE = 'Which music do you prefer?'


@dataclasses.dataclass(frozen=True)
class Question:
  """Two sounds of one piece; `check` is the right answer of an attention check, empty otherwise."""

  piece: str
  left: str
  right: str
  check: str = ''


def questions(pieces: Mapping[str, Sequence[str]], checks: int, seed: int) -> list[Question]:
  """Every pair of systems of every piece, in random order and on random sides, and attention checks between.

  Args:
    pieces: systems that each has a sound of.
    checks: questions of which one side is noise.
    seed: of the order.
  """
  rng = np.random.default_rng(seed)
  asked = []
  for piece, systems in pieces.items():
    for pair in itertools.combinations(systems, 2):
      left, right = pair if rng.integers(2) else pair[::-1]
      asked.append(Question(piece, left, right))
  order = [asked[n] for n in rng.permutation(len(asked))]
  names = list(pieces)
  for n in range(checks if asked else 0):
    piece = names[int(rng.integers(len(names)))]
    system = pieces[piece][int(rng.integers(len(pieces[piece])))]
    left = bool(rng.integers(2))
    check = Question(piece, system, 'noise', 'left') if left else Question(piece, 'noise', system, 'right')
    order.insert(round((n + 1) * (len(order) + 1) / (checks + 1)), check)
  return order


def make(
  folders: Mapping[str, pathlib.Path],
  out: pathlib.Path,
  *,
  videos: pathlib.Path | None = None,
  seconds: float = 20.0,
  checks: int = 2,
  seed: int = 0,
) -> dict[str, Any]:
  """Writes OUT/page, for a web server, and OUT/key.json, which says who made what and stays at home.

  Args:
    folders: of each system's music, by its name; pieces go by the names of the files.
    out: folder.
    videos: folder of the films that the music is for, by the same names.
    seconds: of each piece that are heard.
    checks: attention checks.
    seed: of order, sides and names.

  Returns:
    `test`, `pieces` and `questions`.

  Raises:
    errors.ConfigError: fewer than two systems.
    errors.MediaError: no piece is there of two systems.
  """
  if len(folders) < 2 or 'noise' in folders:
    raise errors.ConfigError('name two systems or more, as NAME=FOLDER, none of them called noise')
  sounds = {system: subjects.find(folder, 'audio') for system, folder in folders.items()}
  names = list(dict.fromkeys(name for found in sounds.values() for name in found))
  pieces = {name: [system for system in folders if name in sounds[system]] for name in names}
  pieces = {name: systems for name, systems in pieces.items() if len(systems) > 1}
  if not pieces:
    raise errors.MediaError('no two systems have a file of the same name, so nothing can be compared')
  films = subjects.find(videos, 'video') if videos else {}
  media = out / 'page' / 'media'
  media.mkdir(parents=True, exist_ok=True)
  asked = questions(pieces, checks, seed)
  rng = np.random.default_rng([seed, 1])
  # Names of files say nothing, not even by their order or length.
  hidden = {
    key: rng.bytes(8).hex() for key in dict.fromkeys((q.piece, s) for q in asked for s in (q.left, q.right))
  }
  for (piece, system), name in hidden.items():
    files.write_bytes(media / f'{name}.mp3', _sound(sounds, pieces, piece, system, seconds, seed))
  shown = {}
  for piece in {question.piece for question in asked} & films.keys():
    shown[piece] = f'{rng.bytes(8).hex()}{films[piece].suffix}'
    files.write_bytes(media / shown[piece], films[piece].read_bytes())
  told = [
    {'left': hidden[q.piece, q.left], 'right': hidden[q.piece, q.right], 'film': shown.get(q.piece, '')}
    for q in asked
  ]
  test = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
  key = {'test': test, 'questions': [dataclasses.asdict(question) for question in asked]}
  files.write_text(out / 'key.json', json.dumps(key, indent=2) + '\n')
  files.write_text(out / 'page' / 'index.html', _page(test, told, bool(shown)))
  return {'test': test, 'pieces': len(pieces), 'questions': len(asked)}


def _sound(sounds, pieces, piece: str, system: str, seconds: float, seed: int) -> bytes:
  """MP3 of a sound, all as loud as each other."""
  path = sounds[pieces[piece][0] if system == 'noise' else system][piece]
  sound, rate = audio_files.load_audio(path, None, None, 0.0, seconds)
  sound = sound[:, :2]
  if system == 'noise':
    sound = np.random.default_rng(seed).uniform(-0.5, 0.5, sound.shape).astype(np.float32)
  return mp3(loudness.normalize_loudness(sound, rate, LOUDNESS), rate, 128000)


def unhidden(key: Mapping[str, Any], answers: Mapping[str, Any]) -> dict[str, Any]:
  """Answers of the page with the systems' names, as `preferences.Answers` has them.

  Raises:
    errors.DatasetError: they are of another test.
  """
  if answers.get('test') != key['test']:
    raise errors.DatasetError('the answers are of another test than the key; give the key.json of their page')
  with errors.translated(errors.DatasetError, 'not answers of a listening test'):
    rows = []
    for number, choice in answers['answers']:
      question = key['questions'][number]
      row = {name: question[name] for name in ('left', 'right', 'check')}
      rows.append(row | {'question': question['piece'], 'choice': choice})
    return {'test': key['test'], 'listener': str(answers['listener']), 'answers': rows}


def _page(test: str, asked: Sequence[Mapping[str, str]], films: bool) -> str:
  data = json.dumps(asked)
  return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Listening test</title>
<style>{STYLE}
button {{ font: inherit; padding: .7em 1em; margin: .2em; min-width: 6em; cursor: pointer }}
button[disabled] {{ opacity: .4; cursor: default }}
button.playing {{ outline: 3px solid #36c }}
.row {{ display: flex; flex-wrap: wrap; gap: .5em }}
video {{ width: 100%; max-height: 50vh; background: #000 }}
progress {{ width: 100% }}
</style></head><body>
<h1>{html.escape(QUESTION if films else QUESTION_ALONE)}</h1>
<p>Listen to both sides at least once, then choose. Keys: <b>A</b> and <b>B</b> play, <b>1</b> is A,
<b>2</b> is B, <b>3</b> is no difference, <b>Backspace</b> goes back.</p>
<progress id="done" max="{len(asked)}" value="0" aria-label="how far you are"></progress>
<main id="main">
<video id="film" muted playsinline hidden></video>
<div class="row"><button id="playA">Play A</button><button id="playB">Play B</button></div>
<div class="row"><button id="left" disabled>A is better</button>
<button id="right" disabled>B is better</button>
<button id="same" disabled>No difference</button><button id="back">Back</button></div>
</main>
<section id="end" hidden><p>Thank you. Save your answers, and send the file to whoever asked you.</p>
<a id="save" download="answers.json"><button>Save the answers</button></a></section>
<script>
const test = {json.dumps(test)}, asked = {data};
const store = 'listening-' + test, at = id => document.getElementById(id);
let state = JSON.parse(localStorage.getItem(store) || 'null');
if (!state) {{
  const order = asked.map((_, n) => n);
  const random = new Uint32Array(asked.length + 1);
  crypto.getRandomValues(random);
  for (let n = order.length - 1; n > 0; n--) {{
    const other = random[n] % (n + 1);
    [order[n], order[other]] = [order[other], order[n]];
  }}
  state = {{listener: random[asked.length].toString(36), order, answers: []}};
}}
let sounds = {{}}, heard = {{}};
function stop() {{
  for (const side of Object.values(sounds)) side.pause();
  at('film').pause();
  at('playA').classList.remove('playing'); at('playB').classList.remove('playing');
}}
function play(side) {{
  if (!sounds[side]) return;
  stop();
  at('play' + side).classList.add('playing');
  sounds[side].currentTime = 0;
  sounds[side].play().catch(() => {{}});
  if (!at('film').hidden) {{ at('film').currentTime = 0; at('film').play().catch(() => {{}}); }}
  heard[side] = true;
  if (heard.A && heard.B) for (const id of ['left', 'right', 'same']) at(id).disabled = false;
}}
function show() {{
  stop();
  localStorage.setItem(store, JSON.stringify(state));
  const number = state.answers.length;
  at('done').value = number;
  at('back').disabled = number === 0;
  const over = number >= asked.length;
  at('main').hidden = over;
  at('end').hidden = !over;
  sounds = {{}};
  if (over) {{
    const told = {{test, listener: state.listener, answers: state.answers}};
    at('save').href = URL.createObjectURL(new Blob([JSON.stringify(told)], {{type: 'application/json'}}));
    return;
  }}
  const question = asked[state.order[number]];
  heard = {{}};
  sounds = {{}};
  for (const [side, name] of [['A', question.left], ['B', question.right]])
    sounds[side] = new Audio('media/' + name + '.mp3');
  for (const side of 'AB') sounds[side].onended = stop;
  at('film').hidden = !question.film;
  if (question.film) at('film').src = 'media/' + question.film;
  for (const id of ['left', 'right', 'same']) at(id).disabled = true;
}}
function answer(choice) {{
  if (at('main').hidden || at(choice).disabled) return;
  state.answers.push([state.order[state.answers.length], choice]);
  show();
}}
function back() {{ if (state.answers.length) {{ state.answers.pop(); show(); }} }}
at('playA').onclick = () => play('A'); at('playB').onclick = () => play('B'); at('back').onclick = back;
for (const id of ['left', 'right', 'same']) at(id).onclick = () => answer(id);
document.onkeydown = event => {{
  const act = {{a: () => play('A'), b: () => play('B'), 1: () => answer('left'), 2: () => answer('right'),
    3: () => answer('same'), backspace: back}}[event.key.toLowerCase()];
  if (act && !event.ctrlKey && !event.metaKey) {{ event.preventDefault(); act(); }}
}};
show();
</script></body></html>
"""
