"""Scores, their performances and what is true of them; the synthesiser is a stand-in or the real one."""

import os
import pathlib
import shutil
import stat

import librosa
import mido
import msgspec
import music21
import numpy as np
import pytest
import soundfile

from v2meow_jax import errors, manifests
from v2meow_jax.data import music_making, performances, rendering, scores, synthesis, true_curves, visualizer
from v2meow_jax.data.music_making import Rendering
from v2meow_jax.data.scores import Note, Score

RATE = 16000


def score_of(name='bach-a', bars=24, seed=0, transposed=0):
  """A tune of quarters over held basses, in 4/4."""
  rng = np.random.default_rng(seed)
  tune = 66 + np.cumsum(rng.integers(-2, 3, 4 * bars)) % 12 + transposed
  notes = [Note(float(n), 1.0, int(pitch), 0) for n, pitch in enumerate(tune)]
  notes += [Note(4.0 * n, 4.0, 43 + int(rng.integers(0, 6)) + transposed, 1) for n in range(bars)]
  notes.sort(key=lambda n: (n.start, -n.pitch))
  beats = [(float(n), 0.5 if n % 4 else 1.0) for n in range(4 * bars)]
  return Score(
    name, name, 'bach', '', 2, True, notes, beats, [4.0 * n for n in range(bars)], 100.0, 4.0 * bars
  )


def test_a_score_is_read_with_its_beats_and_the_key_of_its_notes(tmp_path):
  part = music21.stream.Part()
  part.append([music21.meter.TimeSignature('3/4'), music21.tempo.MetronomeMark(number=90)])
  # An upbeat and eight bars of a scale of G, two notes of it tied.
  part.append([music21.note.Note('D4')])
  for name in (
    'G4',
    'A4',
    'B4',
    'C5',
    'D5',
    'E5',
    'F#5',
    'G5',
    'D5',
    'B4',
    'A4',
    'F#4',
    'G4',
    'B4',
    'D5',
    'G5',
  ):
    part.append(music21.note.Note(name))
  last = [music21.note.Note('G4', quarterLength=4), music21.note.Note('G3', quarterLength=3)]
  part.append(last)
  whole = music21.stream.Score([part.makeMeasures()])
  whole.parts[0].makeTies(inPlace=True)
  found = scores.of_stream(whole, 'own-a')
  assert (found.tonic, found.minor) == (7, False)
  assert [n.pitch for n in found.notes[:3]] == [62, 67, 69]
  assert found.notes[-2].length == 4  # over a bar line, struck once
  assert found.bars[:3] == [0.0, 3.0, 6.0] and found.beats[:4] == [(0, 1.0), (1, 0.5), (2, 0.5), (3, 1.0)]
  assert found.tempo == 90 and found.length == 24


def test_what_is_no_piece_of_music_is_refused_and_remembered(tmp_path, monkeypatch):
  monkeypatch.setattr(scores, '_corpus', lambda: tmp_path)
  (tmp_path / 'a.xml').write_text('<score-partwise><broken')
  told = scores.cached(tmp_path / 'a.xml', tmp_path)
  assert isinstance(told, str) and 'a.xml' in told
  assert scores.cached(tmp_path / 'a.xml', tmp_path) == told
  few = music21.stream.Score([music21.stream.Part([music21.note.Note('C4')])])
  with pytest.raises(errors.DatasetError, match='no piece of music'):
    scores.of_stream(few, 'few')


def test_encodings_of_a_composition_go_together():
  given = [
    score_of('bach-bwv1.6', seed=1),
    score_of('bach-bwv1.2', seed=2),  # another movement of the work
    score_of('other-name', seed=1, transposed=3),  # the same tune
    score_of('haydn-op1-first', seed=3),
    score_of('haydn-op1-second', seed=4),
    score_of('bach-bwv2.6', seed=5),
  ]
  groups = scores.compositions(given)
  assert len(set(groups.values())) == 3
  assert groups['bach-bwv1.6'] == groups['bach-bwv1.2'] == groups['other-name'] == 'bach-bwv1.2'
  assert groups['haydn-op1-first'] == groups['haydn-op1-second'] != groups['bach-bwv2.6']
  assert scores.compositions(given[::-1]) == groups


def test_compositions_are_held_out_by_their_share():
  names = [f'c{n}' for n in range(4000)]
  held = music_making.split(names, 0.1)
  assert abs(len(held) - 400) < 5 * np.sqrt(4000 * 0.1 * 0.9)
  assert held == music_making.split(names[::-1], 0.1)
  assert len(music_making.split(names[:3], 0.001)) == 1 and not music_making.split(names, 0)


def test_a_performance_is_its_seed_s_and_tells_the_truth():
  score = score_of()
  played, truth = performances.perform(score, 'c', 3)
  assert performances.perform(score, 'c', 3) == (played, truth)
  assert performances.perform(score, 'c', 4)[1] != truth
  starts = np.array(sorted({note.start for note in played}))
  assert all(np.abs(starts - time).min() < 1e-9 for time, _, _ in truth.onsets)
  # Quarters are beats here: each beat is an attack.
  assert len(truth.beats) == 96 and max(np.abs(starts - time).min() for time, _ in truth.beats) < 1e-9
  assert [strength for _, strength in truth.beats[:5]] == [1, 0.5, 0.5, 0.5, 1]
  own = {(note.pitch - truth.transposition) % 12 for note in played}
  assert own == {note.pitch % 12 for note in score.notes}
  assert (truth.tonic - score.tonic) % 12 == truth.transposition % 12
  gaps = np.diff([time for time, _ in truth.beats])
  assert 60 / np.median(gaps) == pytest.approx(truth.tempo, rel=0.1)
  assert truth.duration == max(note.stop for note in played) + performances.TAIL


def test_sections_of_more_energy_are_played_louder():
  played, truth = performances.perform(score_of(bars=48), 'c', 1)
  times, energies = (np.array(column) for column in zip(*truth.sections, strict=True))
  section = np.searchsorted(times, [note.start for note in played], 'right') - 1
  velocities = np.array([note.velocity for note in played if note.part == 0])
  of_tune = energies[section[[n for n, note in enumerate(played) if note.part == 0]]]
  assert np.corrcoef(velocities, of_tune)[0, 1] > 0.9
  middles = (np.arange(len(truth.energy)) + 0.5) / truth.rate
  there = energies[np.clip(np.searchsorted(times, middles, 'right') - 1, 0, None)]
  assert np.corrcoef(truth.energy, there)[0, 1] > 0.6  # of what sounds, which dies away between attacks
  assert np.abs(np.diff(energies)).min() > 0.2


def test_transpositions_stay_within_five_semitones_and_the_first_is_the_score_s_own():
  drawn = [performances.perform(score_of(bars=6), 'c', n)[1].transposition for n in range(60)]
  assert drawn[0] == 0 and set(drawn) == set(range(-5, 6))


def test_a_long_score_is_bounded():
  played, truth = performances.perform(score_of(bars=400), 'c', 0)
  assert truth.duration <= performances.LONGEST + performances.TAIL
  assert max(time for time, _, _ in truth.onsets) <= performances.LONGEST
  assert max(note.stop for note in played) <= performances.LONGEST


def test_midi_has_the_notes_at_their_milliseconds(tmp_path):
  played, truth = performances.perform(score_of(), 'c', 2)
  performances.write_midi(tmp_path / 'a.mid', played, truth.duration)
  time, struck, programs = 0.0, [], {}
  made = mido.MidiFile(tmp_path / 'a.mid')
  for message in made:  # mido's own clock, in seconds
    time += message.time
    if message.type == 'program_change':
      programs[message.channel] = message.program
    if message.type == 'note_on' and message.velocity:
      struck.append((time, message.note, message.velocity, programs[message.channel]))
  wanted = sorted((n.start, n.pitch, n.velocity, n.program) for n in played)
  assert len(struck) == len(wanted) and 9 not in programs
  np.testing.assert_allclose([s[0] for s in sorted(struck)], [w[0] for w in wanted], atol=0.0011)
  assert sorted(s[1:] for s in struck) == sorted(w[1:] for w in wanted)
  assert made.length == pytest.approx(truth.duration, abs=0.002)


def test_truth_comes_back_from_its_file(tmp_path):
  _, truth = performances.perform(score_of(), 'c', 2)
  performances.write_truth(tmp_path / 'a.json', truth)
  assert performances.read_truth(tmp_path / 'a.json') == truth
  assert truth.key.endswith('minor') and truth.words['key'] == truth.key
  (tmp_path / 'a.json').write_text('{"id": 1}')
  for name in ('a.json', 'b.json'):
    with pytest.raises(errors.DatasetError, match=name):
      performances.read_truth(tmp_path / name)


def test_captions_say_what_is_true_in_words_that_differ():
  truth = performances.perform(score_of(), 'c', 0)[1]
  truth = msgspec.structs.replace(truth, ensemble='piano', tempo=60.0)
  said = [msgspec.structs.replace(truth, id=f's.{n}').caption for n in range(400)]
  assert len(set(said)) > 50  # and the same for the same name:
  assert said[7] == msgspec.structs.replace(truth, id='s.7').caption
  shares = {'piano': 0.8, 'slow': 0.8, 'minor': 0.8, 'major': 0, 'fast': 0, 'strings': 0}
  for word, share in shares.items():
    assert np.mean([word in caption for caption in said]) == pytest.approx(share, abs=0.07), word
  # No word's synonym is another's.
  others = [word for name, words in performances.SYNONYMS.items() for word in {*words, name}]
  assert len(others) == len(set(others))


@pytest.mark.parametrize('rate', [12, 25])
def test_what_is_seen_is_at_the_true_times(rate):
  _, truth = performances.perform(score_of(), 'c', 1)
  analysis = true_curves.analysis_of(truth, rate)
  assert len(analysis.energy) == round(truth.duration * rate)
  struck = np.unique([int(time * rate) for time, _, _ in truth.onsets])
  np.testing.assert_array_equal(np.flatnonzero(analysis.onset), struck)
  np.testing.assert_array_equal(
    np.flatnonzero(analysis.cuts), np.unique([int(time * rate) for time, _ in truth.sections[1:]])
  )
  for curve in (analysis.energy, analysis.onset, analysis.timbre, analysis.hue, analysis.clarity):
    assert curve.dtype == np.float32 and curve.min() >= 0 and curve.max() <= 1
  assert analysis.hue.max() < 1


def fake_synthesiser(folder, monkeypatch, body):
  path = folder / 'fluidsynth'
  path.write_text(f'#!/bin/sh\nwhile [ "$1" != "-F" ]; do shift; done\n{body}\n')
  path.chmod(path.stat().st_mode | stat.S_IEXEC)
  monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')


def test_a_synthesiser_that_never_ends_is_ended(tmp_path, monkeypatch):
  fake_synthesiser(tmp_path, monkeypatch, 'exec cat /dev/zero > "$2"')
  with pytest.raises(errors.MediaError, match='did not come to an end'):
    synthesis.synthesise(tmp_path / 'a.mid', 'a.sf2', 1.0, 8000)


def test_a_synthesiser_that_fails_is_told_of(tmp_path, monkeypatch):
  fake_synthesiser(tmp_path, monkeypatch, 'echo no soundfont >&2; exit 3')
  with pytest.raises(errors.MediaError, match='no soundfont'):
    synthesis.synthesise(tmp_path / 'a.mid', 'a.sf2', 1.0, 8000)
  with pytest.raises(errors.ConfigError, match='no such soundfont'):
    synthesis.check_synthesiser(tmp_path / 'a.sf2')
  monkeypatch.setenv('PATH', str(tmp_path / 'nothing'))
  with pytest.raises(errors.ConfigError, match='needs FluidSynth'):
    synthesis.check_synthesiser(tmp_path / 'a.sf2')


@pytest.fixture
def tone(tmp_path, monkeypatch):
  """A stand-in that writes ten seconds of a tone, whatever the MIDI file says."""
  time = np.arange(10 * RATE) / RATE
  soundfile.write(tmp_path / 'tone.wav', 0.2 * np.sin(2 * np.pi * 440 * time)[:, None].repeat(2, 1), RATE)
  fake_synthesiser(tmp_path, monkeypatch, f'echo x >> {tmp_path}/calls; cp {tmp_path}/tone.wav "$2"')
  (tmp_path / 'a.sf2').write_bytes(b'')
  return tmp_path


def render(folder, monkeypatch, **changed):
  given = {folder / f'{n}.mxl': score_of(f'bach-bwv{n}.6', bars=3, seed=n) for n in range(4)}
  monkeypatch.setattr(scores, 'cached', lambda path, folder: given.get(path, 'no piece'))
  monkeypatch.setattr(scores, 'identifier', lambda path: path.stem)
  settings = Rendering(
    **{'hours': 0.018, 'soundfont': str(folder / 'a.sf2'), 'sample_rate': RATE, 'validation_share': 0.3}
    | changed
  )
  rows = music_making.render_scores([*given, folder / 'bad.mxl'], folder / 'out', settings)
  return rows, len((folder / 'calls').read_text().split())


def test_rendering_goes_on_where_it_was(tone, monkeypatch):
  rows, calls = render(tone, monkeypatch)
  assert calls == len(rows) > 4  # some in a second performance
  assert {row['split'] for row in rows} == {'train', 'validation'}
  for row in rows:
    truth = performances.read_truth(tone / 'out' / row['events'])
    about = soundfile.info(tone / 'out' / row['audio'])
    assert (about.samplerate, about.channels) == (RATE, 1)
    assert about.duration == pytest.approx(truth.duration, abs=1e-3)
    assert row['source'] == truth.composition
    # What is prepared of it ends where the last notes do.
    assert row['end'] == pytest.approx(truth.duration - performances.TAIL, abs=1e-3)
  splits = {row['source']: row['split'] for row in rows}
  assert all(splits[row['source']] == row['split'] for row in rows)
  (tone / 'out' / rows[1]['audio']).unlink()
  (tone / 'out' / rows[2]['events']).write_text('{}')
  assert render(tone, monkeypatch) == (rows, calls + 2)
  more, later = render(tone, monkeypatch, hours=0.03)
  assert more[: len(rows)] == rows and later == calls + 2 + len(more) - len(rows)
  lines = [line.given for line in manifests.read(tone / 'out' / 'manifest.jsonl', manifests.ClipRow)]
  assert lines == more
  assert 'no piece' in (tone / 'out' / 'rejected.jsonl').read_text()
  assert (tone / 'out' / 'SOURCES.jsonl').read_text().count('public domain') == 4


def test_a_film_of_rendered_music_follows_what_is_true(tone, monkeypatch):
  render(tone, monkeypatch, hours=0.003)
  config = visualizer.VisualizerConfig(width=32, height=32)
  seen = []
  monkeypatch.setattr(
    visualizer, 'render', lambda analysis, config: seen.append(analysis) or iter(
      np.zeros((len(analysis.energy), 32, 32, 3), np.uint8)
    )
  )  # fmt: skip
  done, rejected = rendering.visualize_manifest(
    tone / 'out' / 'manifest.jsonl', tone / 'videos', config, False
  )
  assert done and not rejected
  truth = performances.read_truth(next(iter(sorted((tone / 'out' / 'audio').glob('*.json')))))
  np.testing.assert_array_equal(seen[0].onset, true_curves.analysis_of(truth, 12).onset)
  with pytest.raises(errors.DatasetError, match='another length'):
    wrong = performances.perform(score_of(bars=9), 'c', 1)[1]
    performances.write_truth(tone / 'wrong.json', wrong)
    visualizer.visualize(tone / 'tone.wav', tone / 'a.mp4', config, False, tone / 'wrong.json')


@pytest.mark.skipif(
  shutil.which('fluidsynth') is None or not pathlib.Path(synthesis.SOUNDFONT).is_file(),
  reason='FluidSynth or its soundfont is not installed',
)
def test_the_synthesiser_strikes_notes_when_they_are_true(tmp_path):
  played, truth = performances.perform(score_of(bars=4), 'c', 0)
  piano = [note.__class__(n.start, n.stop, n.pitch, n.velocity, 0, n.part) for n in played for note in [n]]
  performances.write_midi(tmp_path / 'a.mid', piano, truth.duration)
  sound = synthesis.synthesise(tmp_path / 'a.mid', synthesis.SOUNDFONT, truth.duration, RATE)
  assert sound.shape == (round(truth.duration * RATE), 2)
  found = librosa.onset.onset_detect(y=sound.mean(1), sr=RATE, hop_length=128, units='time')
  late = np.array([np.abs(found - time).min() for time, _, _ in truth.onsets])
  # A hop is 8 ms, and librosa's detector finds a piano's attack two or three hops after its key.
  assert (late < 0.05).mean() > 0.9


@pytest.mark.parametrize(('semitones', 'tempo'), [(0, 1.08), (5, 1.0), (-5, 0.92), (3, 1.05)])
def test_a_recording_is_moved_in_key_and_tempo(semitones, tempo):
  time = np.arange(6 * RATE) / RATE
  clicks = np.exp(-40 * (time % 0.5))
  sound = (0.3 * np.sin(2 * np.pi * 440 * time) * clicks).astype(np.float32)[:, None].repeat(2, 1)
  made = synthesis.varied(sound, RATE, semitones, tempo)
  assert made.shape == (round(6 * RATE / tempo), 2)
  power = np.abs(np.fft.rfft(made[:, 0]))
  loudest = np.argmax(power) * RATE / len(made)
  assert 12 * np.log2(loudest / 440) == pytest.approx(semitones, abs=0.3)
  found = librosa.onset.onset_detect(y=made[:, 0], sr=RATE, hop_length=128, units='time')
  assert np.median(np.diff(found)) == pytest.approx(0.5 / tempo, abs=0.02)


def test_recordings_are_varied_once_and_keep_their_source(tmp_path):
  time = np.arange(RATE) / RATE
  soundfile.write(tmp_path / 'a.wav', 0.3 * np.sin(2 * np.pi * 440 * time), RATE)
  rows = [{'id': 'a', 'audio': str(tmp_path / 'a.wav'), 'licence': 'CC0-1.0', 'split': 'validation'}]
  rows.append({'id': 'b', 'audio': str(tmp_path / 'no.wav')})
  made = music_making.vary_recordings(rows, tmp_path / 'out', 2, RATE)
  assert [row['id'] for row in made] == ['a.0', 'a.1', 'a.2']
  assert all(row['source'] == 'a' and row['licence'] == 'CC0-1.0' for row in made)
  assert made[0]['transposition'] == 0 and made[0]['tempo_factor'] == 1
  before = [(tmp_path / 'out' / row['audio']).stat().st_mtime_ns for row in made]
  assert music_making.vary_recordings(rows, tmp_path / 'out', 2, RATE) == made
  assert [(tmp_path / 'out' / row['audio']).stat().st_mtime_ns for row in made] == before
  assert 'no.wav' in (tmp_path / 'out' / 'rejected.jsonl').read_text()
