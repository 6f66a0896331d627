"""Manifests: every line is a row of its schema, or a reason that names the field."""

import json

import pytest

from v2meow_jax import errors, manifests

PIECES = {
  '{"prompt": 5}': '"prompt": expected str, got int',
  '{"video": []}': '"video": expected str, got array',
  '{"video": ""}': '"video"',
  '{"seed": 1.5}': '"seed": expected int, got float',
  '{"seed": "3"}': '"seed": expected int, got str',
  '{"seed": true}': '"seed": expected int, got bool',
  '{"duration": NaN}': 'not JSON',
  '{"duration": 1e999}': '',
  '{"video": "a\\u0000.mp4"}': '"video" holds a NUL',
  '{"prompt": "a\\u0000"}': '"prompt" holds a NUL',
  '{"volume": 3}': '"volume" is not known here',
  '[1, 2]': 'it is not an object',
  '3': 'it is not an object',
  '{"video": "a.mp4"': 'not JSON',
  '[' * 100_000: 'not JSON',
  '{"prompt": "\\ud800"}': 'not JSON',
}


@pytest.mark.parametrize('line', PIECES, ids=lambda line: line[:24])
def test_a_line_that_does_not_hold_says_why(tmp_path, line):
  path = tmp_path / 'm.jsonl'
  path.write_text(f'{{"video": "good.mp4"}}\n{line}\n')
  good, other = manifests.read(path, manifests.PieceRow)
  assert good.row.video == 'good.mp4' and not good.reason
  if line == '{"duration": 1e999}':  # JSON has no infinity: the reader refuses it, or the request does
    assert other.row is None or other.row.duration == float('inf')
    return
  assert other.row is None and PIECES[line] in other.reason and other.number == 2


def test_marks_blank_lines_and_separators_within_texts_do_no_harm(tmp_path):
  path = tmp_path / 'm.jsonl'
  rows = [{'id': 'first', 'audio': 'a.wav'}, {'id': 'line\u2028separator', 'audio': 'b.wav', 'mood': 'calm'}]
  path.write_bytes(
    b'\xef\xbb\xbf' + '\r\n\r\n'.join(json.dumps(r, ensure_ascii=False) for r in rows).encode()
  )
  read = manifests.read(path, manifests.ClipRow)
  assert [line.row.id for line in read] == [row['id'] for row in rows]
  assert read[1].given == rows[1]  # what the schema does not know is kept


@pytest.mark.parametrize(
  ('data', 'words'), [(b'', 'has no rows'), (b'\n \n', 'has no rows'), (b'\xff', 'UTF-8')]
)
def test_a_file_that_is_no_manifest_is_a_sentence(tmp_path, data, words):
  path = tmp_path / 'm.jsonl'
  path.write_bytes(data)
  with pytest.raises(errors.DatasetError, match=words):
    manifests.read(path, manifests.ClipRow)
  with pytest.raises(errors.DatasetError, match='no such manifest'):
    manifests.read(tmp_path / 'none.jsonl', manifests.ClipRow)
