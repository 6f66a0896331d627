"""Labels and embeddings of trained networks beside the truth's, and beside a prompt's."""

import json
import types
from fractions import Fraction

import numpy as np
import pytest
import soundfile
from musicnn_weights import random_weights
from safetensors.numpy import save_file
from scipy import stats

from v2meow_jax.commands import evaluate
from v2meow_jax.evaluation import likeness, measuring, music_report, sets
from v2meow_jax.evaluation.kept import Kept
from v2meow_jax.evaluation.measuring import Measuring, Sound, Tools, load
from v2meow_jax.evaluation.subjects import Piece
from v2meow_jax.streams import Stream

RATE = 16000


def tone(path, pitch, level=0.3):
  path.parent.mkdir(parents=True, exist_ok=True)
  sound = level * np.sin(2 * np.pi * pitch * np.arange(6 * RATE) / RATE)
  soundfile.write(path, sound.astype(np.float32), RATE)
  return path


def test_posteriors_and_their_divergence_are_scipys():
  logits = np.random.default_rng(0).normal(size=(2, 7, 50)) * 3
  ours, theirs = (sets.posterior(x) for x in logits)
  np.testing.assert_allclose(
    ours, (np.exp(logits[0]) / np.exp(logits[0]).sum(1)[:, None]).mean(0), rtol=1e-12
  )
  assert sets.kl(ours[None], theirs[None])[0] == pytest.approx(stats.entropy(theirs, ours), rel=1e-3)


@pytest.mark.slow
def test_labels_and_similarity_stand_in_the_table(tmp_path):
  save_file(random_weights(), tmp_path / 'musicnn.safetensors')
  for n, pitch in enumerate((200, 300, 450, 700)):
    tone(tmp_path / 'truth' / f'p{n}.wav', pitch)
    # The first two are their truth; the others are another pitch.
    tone(tmp_path / 'made' / f'p{n}.wav', pitch if n < 2 else pitch * 3.7)
  status = evaluate.main(
    [
      '--audio', str(tmp_path / 'made'), '--reference', str(tmp_path / 'truth'), '--out', str(tmp_path / 'o'),
      '--labels=audio/musicnn_tags', '--embedders=audio/musicnn', '--seconds=6', '--examples=0',
      f'--musicnn={tmp_path / "musicnn.safetensors"}',
    ]
  )  # fmt: skip
  report = json.loads((tmp_path / 'o' / 'report.json').read_text())
  assert status == 0
  rows = {row['metric']: row['ways'] for row in report['table']}
  assert rows['audio/musicnn_tags/label_kl']['truth']['value'] == pytest.approx(0, abs=1e-9)
  assert rows['audio/musicnn_tags/label_kl']['made']['value'] > 1e-3
  assert rows['audio/musicnn/similarity']['truth']['value'] == pytest.approx(1)
  assert rows['audio/musicnn/similarity']['made']['value'] < 1
  assert {'shuffled', 'noise', 'silence'} <= set(rows['audio/musicnn_tags/label_kl'])


class Joint:
  """A space of sound and text: how often the sound crosses zero, beside what a text says of it."""

  needs, stream = 'audio', Stream('style/joint', 'embedding', Fraction(0), 2)
  identity = types.MappingProxyType({'encoder': 'joint'})

  def encode_clip(self, clip):
    sound = clip.audio(RATE)[:, 0]
    high = np.mean(np.diff(np.sign(sound)) != 0) > 0.05
    return np.array([[high, not high]], np.float32)

  def encode_text(self, text):
    return np.array([[text == 'high', text == 'low']], np.float32)


class Loud(Joint):
  """Logits of two labels: loud, and soft."""

  stream = Stream('audio/loud', 'embedding', Fraction(0), 2)

  def encode_clip(self, clip):
    level = np.log(np.std(clip.audio(RATE)) + 1e-3)
    return np.array([[level, -level]])


def test_labels_are_compared_with_the_truths_and_with_controls(tmp_path):
  pieces = []
  for n, pitch in enumerate((200, 2500)):
    truth = tone(tmp_path / 'truth' / f'p{n}.wav', pitch)
    # The first is its truth; the second has another pitch, and is soft.
    made = truth if n == 0 else tone(tmp_path / 'made' / f'p{n}.wav', 200, level=0.03)
    pieces.append(Piece(f'p{n}', made, truth))
  tools = Tools(6.0, embedders=(Joint(),), labellers=(Loud(),))
  measuring = Measuring(tools, Kept(tmp_path / 'a'), Kept(tmp_path / 'b'))
  found = music_report.measure(pieces, [], measuring, about={})
  rows = {row['metric']: row['ways'] for row in found['table']}
  assert rows['style/joint/similarity']['truth']['value'] == 1
  similar = {way: told['value'] for way, told in rows['style/joint/similarity'].items()}
  assert similar['made'] == similar['noise'] == 0.5
  labels = [sets.posterior(Loud().encode_clip(Sound.of(*load(path, 6.0)))) for path in (made, truth)]
  expected = stats.entropy(labels[1], labels[0]) / 2
  assert rows['audio/loud/label_kl']['made']['value'] == pytest.approx(expected, rel=1e-5)
  assert rows['audio/loud/label_kl']['truth']['value'] == 0
  assert rows['audio/loud/label_kl']['silence']['value'] > rows['audio/loud/label_kl']['made']['value']


def test_a_piece_is_like_its_prompt_and_unlike_anothers(tmp_path):
  pieces = [
    Piece(f'p{n}', tone(tmp_path / f'p{n}.wav', 200 if word == 'low' else 2000), prompt=word)
    for n, word in enumerate(('low', 'high'))
  ]
  tools = Tools(6.0, embedders=(Joint(),))
  found = music_report.measure(
    pieces, [], Measuring(tools, Kept(tmp_path / 'a'), Kept(tmp_path / 'b')), about={}
  )
  (row,) = (row for row in found['table'] if row['metric'] == 'style/joint/text_similarity')
  assert row['ways']['made']['value'] == 1 and row['ways'][music_report.OTHER_PROMPT]['value'] == 0
  assert np.isnan(likeness.cosine(np.zeros(2), np.ones(2)))
  assert measuring.unpacked(measuring.measure(*measuring.load(pieces[0].made, 6.0), tools)).labels == {}
