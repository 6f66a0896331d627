"""`prepare` with filters on small files: who stays, why others do not, and what is written of it."""

import json
from fractions import Fraction

import numpy as np
import pytest
import soundfile
from media_files import write_video

import gin
from v2meow_jax import errors, terminal
from v2meow_jax.commands import inspect, prepare
from v2meow_jax.curation import curation, measuring
from v2meow_jax.data import manifest, table


def run(command, *arguments):
  gin.clear_config()  # a command is a process of its own
  return terminal.run(command.main, [str(argument) for argument in arguments])


@pytest.fixture(scope='module')
def collection(tmp_path_factory):
  """Music, silence, the music again, a film of one picture, one of an artist, and a file that is none."""
  folder = tmp_path_factory.mktemp('collection')
  rng = np.random.default_rng(0)
  for name in ('music', 'other'):
    notes = [np.sin(np.arange(3200) * rng.uniform(0.1, 0.8)) * np.linspace(1, 0, 3200) for _ in range(60)]
    soundfile.write(folder / f'{name}.wav', 0.3 * np.concatenate(notes), 16000)
  music = soundfile.read(folder / 'music.wav')[0]
  soundfile.write(folder / 'again.wav', 0.5 * music[999:], 16000)
  soundfile.write(folder / 'silent.wav', np.zeros(16000 * 12), 16000)
  write_video(
    folder / 'still.mp4', range(60), Fraction(1, 5), rate=5, picture=np.full((48, 64, 3), 90, np.uint8)
  )
  (folder / 'broken.wav').write_bytes(b'RIFF')
  rows = [{'id': name, 'audio': f'{name}.wav'} for name in ('music', 'silent', 'again', 'other', 'broken')]
  rows[0]['artist'] = rows[3]['artist'] = 'one'
  rows.append({'id': 'still', 'video': 'still.mp4'})
  (folder / 'm.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return folder


FILTERS = '--gin.Curation.filters=(@Length(),@Silence(),@Static(),@Duplicates())'
OPTIONS = ('--table', '--clip_seconds=6', '--workers=1', '--validation_share=0.5', FILTERS)


@pytest.fixture(scope='module')
def made(collection):
  out = collection / 'ds'
  artist = "--gin.Curation.split_by=('artist',)"
  assert run(prepare, '--manifest', collection / 'm.jsonl', '--out', out, *OPTIONS, artist) == 0
  return out


def test_each_row_is_a_clip_or_a_reason(made):
  assert {clip.source for clip in table.read_clips(made)} == {'music', 'other'}
  told = [json.loads(line) for line in (made / 'rejected.jsonl').read_text().splitlines()]
  assert {(row['id'], row.get('filter')) for row in told} == {
    ('broken', None),
    *((f'silent-000{n}', 'Silence') for n in range(2)),
    *((f'still-000{n}', 'Static') for n in range(2)),
    *((f'again-000{n}', 'Duplicates') for n in range(2)),
  }
  assert all(row['reason'] for row in told)


def test_sources_of_one_artist_share_a_split(made):
  assert len({clip.split for clip in table.read_clips(made)}) == 1


def test_the_summary_counts_and_the_page_shows(made):
  told = json.loads((made / 'summary.json').read_text())
  assert [(stage['filter'], stage['judged'], stage['rejected']) for stage in told['stages']] == [
    ('Length', 5, 0), ('Silence', 10, 2), ('Static', 8, 2), ('Duplicates', 6, 2),
  ]  # fmt: skip
  assert sum(split['clips'] for split in told['splits'].values()) == 4
  page = (made / 'summary.html').read_text()
  assert page.count('<audio') == 6 and 'filter Silence' in page and 'http' not in page


def test_thresholds_change_without_measuring_anew(made, collection, monkeypatch, tmp_path):
  monkeypatch.setattr(measuring, '_measure_row', lambda *_: pytest.fail('measured again'))
  again = ('--manifest', collection / 'm.jsonl', '--out', made, *OPTIONS)
  assert run(prepare, *again, '--gin.Silence.most=1.0') == 2  # the directory holds other clips
  assert run(inspect, made, '--page', tmp_path / 'page.html') == 0
  assert '<audio' in (tmp_path / 'page.html').read_text()


def test_shares_are_measured_apart(collection, tmp_path, monkeypatch):
  monkeypatch.setattr(measuring, 'ROWS_A_PART', 2)
  rows, _ = manifest.read(collection / 'm.jsonl')
  told = ('--manifest', collection / 'm.jsonl', '--out', tmp_path, '--workers=1', FILTERS)
  assert run(prepare, *told, '--measure=1/2') == 0
  with pytest.raises(errors.DatasetError, match=r'rows 1 to 2 of the manifest are not measured'):
    measuring.read(tmp_path, rows, ['sound'])
  assert run(prepare, *told, '--measure=0/2') == 0
  found = measuring.read(tmp_path, rows, ['sound', 'pictures'])
  assert [bool(one.reason) for one in found] == [False, False, False, False, True, False]
  # A damaged file is made again.
  measuring.path(tmp_path, 'sound', 0).write_bytes(b'half')
  measuring.measure(tmp_path, rows, ['sound', 'pictures'], processes=1)
  assert measuring.read(tmp_path, rows, ['sound', 'pictures']) == found


def test_all_rejected_is_a_sentence(collection, tmp_path, capsys):
  told = ('--manifest', collection / 'm.jsonl', '--out', tmp_path / 'ds', '--table', '--workers=1')
  assert run(prepare, *told, '--gin.Curation.filters=(@Length(),)', '--gin.Length.least=100') == 2
  assert 'no row can be used' in capsys.readouterr().err
  assert not (tmp_path / 'ds' / 'clips.jsonl').exists()


def test_the_shipped_files_are_what_gin_takes(collection, tmp_path, capsys):
  for name, count in (('standard', 8), ('sound', 4)):
    told = ('--manifest', collection / 'gone.jsonl', '--out', tmp_path, '--table')
    assert run(prepare, *told, f'--gin_file=filters/{name}.gin') == 2
    assert 'no such manifest' in capsys.readouterr().err
    from v2meow_jax.encoders.configured import configured

    assert len(configured(curation.Curation).filters) == count
