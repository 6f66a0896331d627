"""Small indexes in the form in which the public sets are published, and folders that lack some media."""

import json

import numpy as np
import pytest
import soundfile

from v2meow_jax import errors, terminal
from v2meow_jax.commands import manifest as command
from v2meow_jax.commands import prepare
from v2meow_jax.curation import public_sets
from v2meow_jax.data import manifest, table


def touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b'x')
  return folder


def by_id(rows):
  return {row['id']: row for row in rows}


def test_v2m_is_a_list_of_ids(tmp_path):
  media = touch(tmp_path / 'media', 'aB3-_x9Qz1k.mp4', 'part/zzzzzzzzzzz.webm')
  index = tmp_path / 'V2M-bench.txt'
  index.write_text('aB3-_x9Qz1k\nmissing0000\nhttps://www.youtube.com/watch?v=zzzzzzzzzzz\n!\naB3-_x9Qz1k\n')
  rows, missing = public_sets.rows_of('v2m', index, media)
  assert {row['id']: row['split'] for row in rows} == {
    'aB3-_x9Qz1k': 'validation',
    'zzzzzzzzzzz': 'validation',
  }
  assert rows[1]['video'].endswith('part/zzzzzzzzzzz.webm')
  assert missing == {'no such file': 1, 'lines that name no video': 1, 'ids that occur twice': 1}


def test_ossl_is_a_table_of_movies_and_lists_of_clips(tmp_path):
  media = touch(
    tmp_path, 'train/video/m1/m1_0001.mp4', 'train/audio/m1/m1_0001.wav', 'test/video/m2/m2_0007.mp4'
  )  # fmt: skip
  (tmp_path / 'splits').mkdir()
  (tmp_path / 'splits' / 'train.txt').write_text('m1_0001\nm1_0002\n')
  (tmp_path / 'splits' / 'test.txt').write_text('m2_0007\n')
  (tmp_path / 'metadata.csv').write_text(
    'movie_id,title,year,source\nm1,"A, film",1927,web\nm2,Other,1931,web\n'
  )
  rows, missing = public_sets.rows_of('ossl-v2', tmp_path, media)
  assert missing == {'no such file': 1}
  found = by_id(rows)
  assert found['m1_0001']['source'] == 'm1' and found['m1_0001']['title'] == 'A, film'
  assert found['m1_0001']['video'].endswith('.mp4') and found['m1_0001']['audio'].endswith('.wav')
  assert found['m2_0007']['split'] == 'validation' and 'audio' not in found['m2_0007']


def test_aist_names_dances_before_all_cameras(tmp_path):
  media = touch(
    tmp_path / 'videos',
    'gBR_sBM_c01_d04_mBR2_ch01.mp4', 'gBR_sBM_c09_d04_mBR2_ch01.mp4', 'gWA_sBM_c01_d25_mWA0_ch02.mp4',
    'gBR_sBM_c01_d04_mBR3_ch09.mp4',
  )  # fmt: skip
  index = tmp_path / 'aist_plusplus_final'
  (index / 'splits').mkdir(parents=True)
  lists = {
    'train': 'gBR_sBM_cAll_d04_mBR2_ch01\ngBR_sBM_cAll_d04_mBR3_ch09\n',
    'val': 'gWA_sBM_cAll_d25_mWA0_ch02\n',
  }
  for split in ('train', 'val', 'test'):
    (index / 'splits' / f'crossmodal_{split}.txt').write_text(
      lists.get(split, 'gLO_sBM_cAll_d13_mLO2_ch01\n')
    )
  (index / 'ignore_list.txt').write_text('gBR_sBM_cAll_d04_mBR3_ch09\n')
  rows, missing = public_sets.rows_of('aist++', index, media)
  found = by_id(rows)
  assert {name: row['source'] for name, row in found.items()} == {
    'gBR_sBM_c01_d04_mBR2_ch01': 'mBR2', 'gBR_sBM_c09_d04_mBR2_ch01': 'mBR2',
    'gWA_sBM_c01_d25_mWA0_ch02': 'mWA0',
  }  # fmt: skip
  assert found['gWA_sBM_c01_d25_mWA0_ch02'] | {'video': ''} == {
    'id': 'gWA_sBM_c01_d25_mWA0_ch02', 'video': '', 'source': 'mWA0', 'split': 'validation', 'dancer': 'd25',
    'choreography': 'gWA_sBM_ch02',
  }  # fmt: skip
  assert missing == {'on the list of those to ignore': 1, 'no such file': 1}


CAPTIONS = (
  'ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,'
  'is_audioset_eval\n'
  '-0Gj8-vB1q4,30,40,"/m/0140xf,/m/02cjck","[\'low quality\', \'strings\']","A recording\nof a ballad.",4,'
  'False,True\n'
  '-0SdAVK79lg,30,40,"/m/0155w","[\'guitar song\']","This song features a guitar.",0,False,False\n'
  'broken00000,30,40,,,"Nothing.",0,False,False\n'
  'gone0000000,0,10,,,"Gone.",0,False,False\n'
)


def test_musiccaps_are_spans_of_whole_films_or_the_seconds_alone(tmp_path):
  soundfile.write(tmp_path / '-0Gj8-vB1q4.wav', np.zeros(8000 * 50), 8000)
  soundfile.write(tmp_path / '-0SdAVK79lg.wav', np.zeros(8000 * 10), 8000)
  touch(tmp_path, 'broken00000.wav')
  (tmp_path / 'musiccaps-public.csv').write_text(CAPTIONS)
  rows, missing = public_sets.rows_of('musiccaps', tmp_path / 'musiccaps-public.csv', tmp_path)
  whole, cut = rows
  assert (whole['start'], whole['end'], whole['split']) == (30, 40, 'validation')
  assert whole['caption'].split() == ['A', 'recording', 'of', 'a', 'ballad.']
  assert 'start' not in cut and cut['split'] == 'train' and 'guitar' in cut['aspects']
  assert missing == {'no such file': 1, 'files that cannot be read': 1}


def test_a_folder_becomes_a_dataset(tmp_path, capsys):
  media = touch(tmp_path / 'media', 'notes.md', '.hidden.wav')
  for name in ('a', 'b/a', 'b/c ü'):
    (media / name).parent.mkdir(exist_ok=True)
    soundfile.write(media / f'{name}.wav', np.zeros(8000 * 7), 8000)
  (media / 'a.txt').write_text('a  caption\n')
  out = tmp_path / 'm.jsonl'
  assert terminal.run(command.main, ['folder', str(media), '--out', str(out)]) == 0
  assert f'{out}: 3 rows' in capsys.readouterr().out
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  assert [row['id'] for row in rows] == ['a', 'b/a', 'b/c ü'] and rows[0]['caption'] == 'a caption'
  assert rows[0]['audio'] == 'media/a.wav'
  assert manifest.read(out)[1] == []
  assert terminal.run(prepare.main, ['--manifest', str(out), '--out', str(tmp_path / 'ds'), '--table']) == 0
  assert len(table.read_clips(tmp_path / 'ds')) == 3


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (('v2m', 'no.txt', '.'), 'no such index'),
    (('v2m', 'x.txt', 'nowhere'), 'no such folder'),
    (('v2m', 'x.txt', '.'), 'no row of it has its media'),
    (('v2m', 'latin.txt', '.'), 'not a text file in UTF-8'),
    (('folder', 'x.txt', '.'), 'give MEDIA'),
  ],
)
def test_what_is_not_there_is_told_in_a_sentence(tmp_path, monkeypatch, capsys, arguments, words):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'x.txt').write_text('aaaaaaaaaaa\n')
  (tmp_path / 'latin.txt').write_bytes('Grüße\n'.encode('latin-1'))
  assert terminal.run(command.main, [*arguments, '--out', 'm.jsonl']) == 2
  assert words in capsys.readouterr().err
  assert not (tmp_path / 'm.jsonl').exists()


def test_an_index_cannot_lead_out_of_the_media(tmp_path):
  media = touch(tmp_path / 'media', 'aaaaaaaaaaa.mp4')
  touch(tmp_path, 'secret00000.mp4')
  (tmp_path / 'x.txt').write_text('../secret00000\naaaaaaaaaaa\n/etc/passwd\n')
  rows, _ = public_sets.rows_of('v2m', tmp_path / 'x.txt', media)
  assert [row['id'] for row in rows] == ['aaaaaaaaaaa']
  with pytest.raises(errors.InputError):
    public_sets.rows_of('v2m', tmp_path / 'x.txt', tmp_path / 'none')
