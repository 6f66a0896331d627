"""An evaluation that is killed again and again ends with the report of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

RATE = 16000


def music(folder, count, seed):
  folder.mkdir(parents=True)
  rng, time_ = np.random.default_rng(seed), np.arange(20 * RATE) / RATE
  for n in range(count):
    level = np.exp(-5 * (time_ % rng.uniform(0.3, 0.7)))
    sound = 0.2 * level * np.sin(2 * np.pi * rng.uniform(150, 900) * time_) + 1e-3 * rng.normal(
      size=len(time_)
    )
    soundfile.write(folder / f'p{n:02d}.wav', sound.astype(np.float32), RATE)


def command(root, out):
  return [
    sys.executable, '-m', 'v2meow_jax', 'evaluate', f'--audio={root / "made"}',
    f'--reference={root / "true"}', f'--out={root / out}', '--examples=0', '--seconds=20',
  ]  # fmt: skip


def kept(root):
  return sum(1 for place in ('made', 'true') for _ in (root / place / '.evaluation').glob('*.npz'))


@pytest.mark.slow
def test_a_report_does_not_depend_on_kills(tmp_path):
  quiet, killed, rng = tmp_path / 'quiet', tmp_path / 'killed', random.Random(0)
  for root in (quiet, killed):
    music(root / 'made', 12, 0)
    music(root / 'true', 12, 1)
  assert subprocess.run(command(quiet, 'out')).returncode == 0
  total = kept(quiet)
  assert total == 12 * 4  # made, truth, noise, silence
  seen = []
  for part in range(1, 6):
    process = subprocess.Popen(command(killed, 'out'), env=os.environ)
    # Somewhere in the next fifth of the work, or before any of it.
    while process.poll() is None and kept(killed) < total * (part - rng.random()) / 6:
      time.sleep(0.01)
    time.sleep(rng.random())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / 'out' / 'report.json').exists()
    seen.append({path: path.stat().st_mtime_ns for path in killed.glob('*/.evaluation/*.npz')})
  assert 0 < len(seen[-1]) < total
  assert subprocess.run(command(killed, 'out')).returncode == 0
  # What had been measured was not measured again.
  for before in seen:
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
  assert kept(killed) == total
  one, other = (json.loads((root / 'out' / 'report.json').read_text()) for root in (quiet, killed))
  assert one['metrics'] == other['metrics'] and one['pieces'] == other['pieces']
