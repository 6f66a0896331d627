import pathlib
import subprocess
import sys
from fractions import Fraction

import numpy as np
import small

from v2meow_jax import bundles, stages
from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.generation.request import Request
from v2meow_jax.sampling import Sampling


def test_programs_give_the_same_tokens_where_our_package_cannot_be_imported(demo_clip, tmp_path):
  folder = small.write_bundle(tmp_path / 'bundle', stablehlo=True)
  loaded = bundles.load(folder)
  assert len(loaded.about['stablehlo']) == 6
  pipeline = Pipeline.load(loaded)
  greedy = {runner.stage.name: Sampling(temperature=0) for runner in pipeline.stages}
  requests = [Request(demo_clip, duration=seconds) for seconds in (2.0, 1.5)]
  made = pipeline.generate_batch(requests, sampling=greedy)
  given = {}
  for runner in pipeline.stages[:2]:  # their crops are 2 s, so each piece is one window
    stage = runner.stage
    rows = [stage.crop(lambda s, a, b, m=m: m.streams[s.name][a:b], Fraction(0)) for m in made]
    used = {c.stream.name for c in stage.conditions}
    for name in rows[0]:
      stream = name.removesuffix('/mask').removesuffix('/offset')
      if stream in used or name == f'{stage.target.stream.name}/offset':
        given[f'{stage.name}|{name}'] = np.stack([row[name] for row in rows])
    given[f'{stage.name}|dropped'] = np.zeros((2, len(stage.conditions)), bool)
    given[f'{stage.name}|steps'] = np.int32(stage.steps)
  np.savez(tmp_path / 'given.npz', **given)
  program = pathlib.Path(__file__).with_name('stablehlo_program.py')
  done = subprocess.run(
    [sys.executable, program, folder, tmp_path / 'given.npz', tmp_path / 'made.npz'],
    capture_output=True, text=True, cwd=tmp_path,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  found = np.load(tmp_path / 'made.npz')
  for runner in pipeline.stages[:2]:
    target = runner.stage.target
    tokens = np.asarray(stages.from_steps(target, found[runner.stage.name]))
    for row, piece in zip(tokens, made, strict=True):
      wanted = piece.streams[target.stream.name][:, slice(*target.span)]
      np.testing.assert_array_equal(row[: len(wanted)], wanted)
