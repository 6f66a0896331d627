"""Manifests: bad rows are reported, sources stay together, files are cut into clips."""

import json

import numpy as np
import pytest
import soundfile

from v2meow_jax import errors
from v2meow_jax.data import manifest, order, preparation, spans, splits, table


def write(tmp_path, *rows):
  path = tmp_path / 'manifest.jsonl'
  path.write_text(''.join((row if isinstance(row, str) else json.dumps(row)) + '\n' for row in rows))
  return path


@pytest.fixture
def sound(tmp_path):
  soundfile.write(tmp_path / 'a.wav', np.zeros(8000 * 25, np.float32), 8000)
  return 'a.wav'


def test_each_bad_row_is_reported_with_its_reason(tmp_path, sound):
  path = write(
    tmp_path,
    '{not json',
    '[1]',
    {'id': 7, 'audio': sound},
    {'id': 'x'},
    {'id': 'gone', 'audio': 'gone.wav'},
    {'id': 'split', 'audio': sound, 'split': 'exam'},
    {'id': 'good', 'audio': sound},
    {'id': 'good', 'audio': sound},
    '',
  )
  rows, rejected = manifest.read(path)
  assert [row['id'] for row in rows] == ['good']
  assert [row['line'] for row in rejected] == [1, 2, 3, 4, 5, 6, 8]
  words = ['not JSON', 'not an object', '"id": expected str, got int', 'neither']
  words += ['does not exist', "'exam' is not one of train, validation", 'twice']
  assert all(word in row['reason'] for word, row in zip(words, rejected, strict=True))


def test_a_source_in_two_splits_is_refused(tmp_path, sound):
  row = {'audio': sound, 'source': 's'}
  path = write(tmp_path, row | {'id': 'a', 'split': 'train'}, row | {'id': 'b', 'split': 'validation'})
  with pytest.raises(errors.DatasetError, match="line 2: source 's'"):
    manifest.read(path)


def test_sources_are_split_about_as_asked_and_never_torn():
  rows = [{'id': f'{source}/{n}', 'source': f'source {source}'} for source in range(2000) for n in range(2)]
  chosen = splits.assign(rows, 0.1)
  assert len(chosen) == 2000
  share = sum(split == 'validation' for split in chosen.values()) / 2000
  # Five standard deviations of a share of 0.1 of 2,000.
  assert abs(share - 0.1) < 0.034
  # A source keeps its split when others are added.
  fewer = splits.assign(rows[:1000], 0.1)
  assert sum(fewer[source] != chosen[source] for source in fewer) <= 2


def test_two_sources_fill_both_splits():
  chosen = splits.assign([{'id': 'a', 'source': 'a'}, {'id': 'b', 'source': 'b'}], 0.01)
  assert sorted(chosen.values()) == ['train', 'validation']


def test_a_file_is_cut_and_a_short_rest_left_out(tmp_path, sound):
  rows, _ = manifest.read(write(tmp_path, {'id': 'a', 'audio': sound}))
  clips, _, rejected = manifest.cut(rows, spans.spans_of(rows), clip_seconds=10, least_seconds=5)
  assert [(clip.id, clip.start, clip.duration) for clip in clips] == [
    ('a-0000', 0, 10), ('a-0001', 10, 10), ('a-0002', 20, 5),
  ]  # fmt: skip
  clips, _, _ = manifest.cut(rows, spans.spans_of(rows), clip_seconds=10, least_seconds=6)
  assert len(clips) == 2 and rejected == []


def test_a_row_may_stand_for_a_part_of_a_file(tmp_path, sound):
  rows, rejected = manifest.read(
    write(
      tmp_path,
      {'id': 'a', 'audio': sound, 'start': 3.5, 'end': 20},
      {'id': 'b', 'audio': sound, 'start': 12, 'end': 99},
      {'id': 'c', 'audio': sound, 'start': 30},
      {'id': 'd', 'audio': sound, 'start': 5, 'end': 5},
    )
  )
  assert [row['id'] for row in rejected] == ['d']
  clips, numbers, rejected = manifest.cut(rows, spans.spans_of(rows), clip_seconds=10, least_seconds=5)
  assert [(clip.id, clip.start, clip.duration) for clip in clips] == [
    ('a-0000', 3.5, 10), ('a-0001', 13.5, 6.5), ('b-0000', 12, 10),
  ]  # fmt: skip
  assert numbers == [0, 0, 1]
  assert 'it ends at 25.00 s, and the row begins at 30 s' in rejected[0]['reason']


def test_clips_end_at_bounds_where_there_are_any():
  # At 9 and 19 (the last bound within 10 s), at 29 for want of one, and 33 s are the end.
  bounds = [1.0, 4.0, 9.0, 19.0, 30.0, 31.0]
  assert manifest.pieces_of(33, 10, 4, bounds) == [(0, 9), (9, 10), (19, 10), (29, 4)]
  assert manifest.pieces_of(3, 10, 4, bounds) == []
  assert manifest.pieces_of(6, 10, 4, [2.0]) == [(0, 6)]


def test_sources_that_share_a_key_are_in_one_split():
  rows = [{'source': f's{n}', 'artist': [f'a{n // 4}', f'b{n}'], 'label': f'l{n // 16}'} for n in range(400)]
  by_artist = splits.assign(rows, 0.3, ['artist'])
  assert all(len({by_artist[f's{n}'] for n in range(k, k + 4)}) == 1 for k in range(0, 400, 4))
  assert set(by_artist.values()) == {'train', 'validation'}
  both = splits.groups(rows, ['artist', 'label'])
  assert len(set(both.values())) == 25
  assert len(set(splits.groups(rows, together=[('s0', 's1'), ('s1', 's7')]).values())) == 398
  rows[0]['split'], rows[3]['split'] = 'train', 'validation'
  with pytest.raises(errors.DatasetError, match="source 's3' is in validation and 's0' in train"):
    splits.assign(rows, 0.3, ['artist'])


def test_files_that_cannot_be_used_are_reported(tmp_path, sound):
  (tmp_path / 'bad.mp4').write_bytes(b'nothing')
  soundfile.write(tmp_path / 'short.wav', np.zeros(8000, np.float32), 8000)
  rows, _ = manifest.read(
    write(
      tmp_path,
      {'id': 'a', 'video': sound},
      {'id': 'b', 'video': 'bad.mp4'},
      {'id': 'c', 'audio': 'short.wav'},
    )
  )
  clips, _, rejected = manifest.cut(rows, spans.spans_of(rows), clip_seconds=10, least_seconds=5)
  assert clips == []
  assert ['no video stream' in rejected[0]['reason'], 'bad.mp4' in rejected[1]['reason']] == [True, True]
  assert '1.00 s long' in rejected[2]['reason']


def test_rows_without_a_split_follow_their_source(tmp_path, sound):
  row = {'audio': sound, 'source': 's'}
  rows, _ = manifest.read(write(tmp_path, row | {'id': 'a'}, row | {'id': 'b', 'split': 'validation'}))
  assert splits.assign(rows, 0.0) == {'s': 'validation'}


@pytest.mark.parametrize('source', [7, None, ['s']])
def test_a_source_that_is_no_string_is_reported(tmp_path, sound, source):
  rows, rejected = manifest.read(write(tmp_path, {'id': 'a', 'audio': sound, 'source': source}))
  assert rows == [] and len(rejected) == 1


def test_a_manifest_that_is_not_utf8_is_refused(tmp_path):
  path = tmp_path / 'manifest.jsonl'
  path.write_bytes('{"id": "Grüße"}\n'.encode('latin-1'))
  with pytest.raises(errors.DatasetError):
    manifest.read(path)


@pytest.mark.parametrize('mark', ['\u2028', '\x85'])
def test_captions_may_hold_any_character(tmp_path, sound, mark):
  path = write(tmp_path, {'id': 'a', 'audio': sound, 'caption': f'one{mark}two'})
  preparation.make_table(path, tmp_path / 'out')
  clips = table.read_clips(tmp_path / 'out')
  assert clips == list(table.ClipTable(tmp_path / 'out', 'train'))
  assert clips[0].caption == f'one{mark}two'


def test_the_only_source_is_trained_on():
  name = next(f's{n}' for n in range(1000) if order.clip_hash(f's{n}') < 0.05 * 2**64)
  assert splits.assign([{'id': 'a', 'source': name}], 0.05) == {name: 'train'}
