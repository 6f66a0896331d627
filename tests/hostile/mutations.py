"""Mutates what people copy, edit and lose bits of; every mutation is a right result or an InputError.

    python tests/hostile/mutations.py --count 10000 --seed 0

prints every failure with its seed. The slow tests run some.
"""

import argparse
import contextlib
import copy
import io
import json
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1])]

import small  # noqa: E402

import gin  # noqa: E402
from v2meow_jax import bundles, errors, manifests  # noqa: E402
from v2meow_jax.bundles import writing  # noqa: E402
from v2meow_jax.bundles.faults import faults  # noqa: E402
from v2meow_jax.bundles.summary import tell  # noqa: E402
from v2meow_jax.codec import transcoding  # noqa: E402
from v2meow_jax.data import dataset, records  # noqa: E402
from v2meow_jax.encoders.semantic import SemanticEncoder  # noqa: E402
from v2meow_jax.experiment import configuration, experiment  # noqa: E402
from v2meow_jax.generation import results  # noqa: E402
from v2meow_jax.generation.pipeline import Pipeline  # noqa: E402
from v2meow_jax.streams import Stream  # noqa: E402

LIMIT = 30  # seconds
ODD = (None, True, -1, 0, 10**30, 1.5, '', 'x', '\0', '../..', [], {}, [[]], {'type': 'Stage'}, '1/0', 1e308)


def bytes_of(data: bytes, rng: random.Random) -> bytes:
  """The bytes with something done to them."""
  made = bytearray(data)
  kind = rng.choice(('flip', 'flips', 'cut', 'zeros', 'hole', 'insert', 'empty'))
  if kind == 'empty' or not made:
    return b''
  at = rng.randrange(len(made))
  if kind == 'cut':
    del made[at:]
  elif kind == 'zeros':
    made[at : at + 64] = bytes(len(made[at : at + 64]))
  elif kind == 'hole':
    del made[at : at + rng.choice((1, 2, 40))]
  elif kind == 'insert':
    made[at:at] = rng.randbytes(rng.choice((1, 8)))
  else:
    for _ in range(1 if kind == 'flip' else 20):
      made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
  return bytes(made)


def json_of(value, rng: random.Random):
  """A JSON value with one part of it replaced, removed or doubled."""
  made = copy.deepcopy(value)
  places = []

  def walk(part) -> None:
    keys = list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
    for key in keys:
      places.append((part, key))
      walk(part[key])

  walk(made)
  part, key = rng.choice(places)
  if rng.random() < 0.25:
    del part[key]
  elif isinstance(part, dict) and rng.random() < 0.1:
    part[f'{key}_'] = part.pop(key)
  else:
    part[key] = copy.deepcopy(rng.choice(ODD))
  return made


class World:
  """Whole files that are mutated, in a folder that is laid anew for every case."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.bundle = small.write_bundle(folder / 'bundle')
    self.codec = small.make_codec()
    self.stream = Stream('audio/acoustic', 'tokens', 25, 4, 16)
    self._dataset(folder / 'data')
    self.recipes = sorted((configuration.gin_directory() / 'recipes').glob('*.gin'))

  def _dataset(self, path: pathlib.Path) -> None:
    import numpy as np

    shards = records.folder(path, self.stream)
    shards.mkdir(parents=True)
    rows = [(f'clip{n}', np.full((50, 4), n, np.uint16)) for n in range(6)]
    index = []
    for shard in range(2):
      part = records.part_path(path, self.stream, 'train', shard)
      part.parent.mkdir(exist_ok=True)
      records.write_part(part, self.stream, rows[3 * shard : 3 * shard + 3])
      index.append(records.join([part], records.shard_path(shards, self.stream, 'train', shard, 2)))
    np.save(records.split_index_path(shards, self.stream, 'train'), np.concatenate(index))
    clips = [
      {'id': name, 'source': name, 'start': 0.0, 'duration': 2.0, 'split': 'train', 'video': None,
       'audio': 'a.wav', 'caption': '', 'licence': ''}
      for name, _ in rows
    ]  # fmt: skip
    (path / 'clips.jsonl').write_text(''.join(json.dumps(clip) + '\n' for clip in clips))
    entry = {'name': self.stream.name, 'kind': 'tokens', 'rate': '25', 'width': 4, 'codes': 16}
    entry |= {'version': records.VERSION, 'shards': {'train': 2}, 'clips_a_shard': 3, 'made_by': {}}
    (path / 'streams.json').write_text(json.dumps({self.stream.name: entry}))

  def kinds(self) -> list[Callable]:
    """The functions that mutate something and read it; each takes a generator and a folder."""
    return [
      self.bundle_json, self.bundle_weights, self.manifest, self.gin_file, self.clip_table, self.streams,
      self.shard, self.codes, self.semantic, self.result,
    ]  # fmt: skip

  def bundle_json(self, rng: random.Random, folder: pathlib.Path) -> None:
    made = shutil.copytree(self.bundle, folder / 'b')
    path = made / 'bundle.json'
    if rng.random() < 0.3:
      path.write_bytes(bytes_of(path.read_bytes(), rng))
    else:
      path.write_text(json.dumps(json_of(json.loads(path.read_text()), rng)))
    self._use(made)

  def bundle_weights(self, rng: random.Random, folder: pathlib.Path) -> None:
    made = shutil.copytree(self.bundle, folder / 'b')
    path = rng.choice(sorted(made.glob('*.safetensors')))
    path.write_bytes(bytes_of(path.read_bytes(), rng))
    if rng.random() < 0.8:  # what a hash does not tell
      about = json.loads((made / 'bundle.json').read_text())
      for part in (about['codec'], about['semantic'], *about['stages']):
        if part['file'] == path.name:
          part |= writing.describe_file(path)
      (made / 'bundle.json').write_text(json.dumps(about))
    self._use(made)

  def _use(self, path: pathlib.Path) -> None:
    bundle = bundles.load(path)
    tell(bundle)
    faults(bundle)
    Pipeline.load(bundle)

  def manifest(self, rng: random.Random, folder: pathlib.Path) -> None:
    path = folder / 'm.jsonl'
    row = {'id': 'a', 'video': 'a.mp4', 'audio': 'a.wav', 'name': 'x', 'seed': 3, 'duration': 2.5}
    lines = [json.dumps(json_of(row, rng)).encode() for _ in range(3)]
    data = b'\n'.join(lines)
    path.write_bytes(bytes_of(data, rng) if rng.random() < 0.5 else data)
    for kind in (manifests.ClipRow, manifests.MusicRow, manifests.PieceRow):
      for line in manifests.read(path, kind):
        assert (line.row is None) == bool(line.reason)

  def gin_file(self, rng: random.Random, folder: pathlib.Path) -> None:
    gin.clear_config()
    recipe = rng.choice(self.recipes)
    path = folder / 'mine.gin'
    text = bytes_of(recipe.read_bytes(), rng) if rng.random() < 0.5 else recipe.read_bytes()
    path.write_bytes(text)
    flags = ['MODEL_DIR="m"', 'DATASET_DIR="d"']
    if rng.random() < 0.5:
      name = rng.choice(
        ('BATCH_SIZE', 'TOTAL_STEPS', 'TransformerConfig.heads', 'Stage.crop_seconds', 'SEED')
      )
      flags.append(f'{name}={rng.choice(ODD)!r}')
    parser = configuration.parser('x', None)
    args = configuration.parse(parser, [f'--gin_file={path}', *(f'--gin.{flag}' for flag in flags)])
    with contextlib.redirect_stdout(io.StringIO()):
      experiment.inspect(args, lambda *parts: parts[1].shapes())

  def clip_table(self, rng: random.Random, folder: pathlib.Path) -> None:
    made = self._data(folder)
    path = made / 'clips.jsonl'
    if rng.random() < 0.5:
      path.write_bytes(bytes_of(path.read_bytes(), rng))
    else:
      rows = [json.loads(line) for line in path.read_text().splitlines()]
      path.write_text('\n'.join(json.dumps(row) for row in json_of(rows, rng)))
    self._read(made)

  def streams(self, rng: random.Random, folder: pathlib.Path) -> None:
    made = self._data(folder)
    path = made / 'streams.json'
    if rng.random() < 0.5:
      path.write_bytes(bytes_of(path.read_bytes(), rng))
    else:
      path.write_text(json.dumps(json_of(json.loads(path.read_text()), rng)))
    self._read(made)

  def shard(self, rng: random.Random, folder: pathlib.Path) -> None:
    made = self._data(folder)
    path = rng.choice(sorted(path for path in (made / self.stream.name).rglob('*') if path.is_file()))
    path.write_bytes(bytes_of(path.read_bytes(), rng))
    self._read(made)

  def _data(self, folder: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(self.folder / 'data', folder / 'data')

  def _read(self, path: pathlib.Path) -> None:
    data = dataset.Dataset(path, 'train', (self.stream,))
    for clip in range(len(data.clips)):
      found = data.read(self.stream, clip)
      assert found.ndim == 2 and found.shape[1] == 4
      data.length(self.stream, clip)

  def codes(self, rng: random.Random, folder: pathlib.Path) -> None:
    import numpy as np

    path = folder / 'a.npz'
    about = {'identity': self.codec.identity, 'sample_rate': 8000, 'samples': 8000}
    if rng.random() < 0.5:
      about = json_of(about, rng)
    np.savez_compressed(path, codes=np.zeros((25, 4), np.uint16), about=json.dumps(about))
    path.write_bytes(bytes_of(path.read_bytes(), rng) if rng.random() < 0.6 else path.read_bytes())
    transcoding.read_codes(self.codec, path)

  def semantic(self, rng: random.Random, folder: pathlib.Path) -> None:
    path = folder / 'semantic.safetensors'
    path.write_bytes(bytes_of((self.bundle / 'semantic.safetensors').read_bytes(), rng))
    _ = SemanticEncoder.load(path).stream

  def result(self, rng: random.Random, folder: pathlib.Path) -> None:
    about = {'request': {'video': None}, 'v2meow_jax': '0', 'bundle': 'x'}
    for suffix in ('wav', 'png'):
      (folder / f'a.{suffix}').touch()
    (folder / 'a.json').write_bytes(bytes_of(json.dumps(about).encode(), rng))
    assert results.complete(folder, 'a', about) in (True, False)
    assert results.is_result(folder / 'a.mp4') in (True, False)


def run(world: World, seed: int) -> str:
  """What came of a mutation: `right` or `refused`; raises whatever else came through."""
  rng = random.Random(seed)
  kinds = world.kinds()
  kind = kinds[seed % len(kinds)]

  def late(*_):
    raise TimeoutError(f'more than {LIMIT} s')

  before = signal.signal(signal.SIGALRM, late)
  signal.alarm(LIMIT)
  try:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
      warnings.simplefilter('ignore')
      kind(rng, pathlib.Path(folder))
    return 'right'
  except errors.InputError as error:
    assert str(error).strip() and len(str(error)) < 2000, 'no sentence'
    return 'refused'
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--count', type=int, default=1000)
  parser.add_argument('--seed', type=int, default=0, help='of the first')
  args = parser.parse_args()
  told: Counter = Counter()
  began = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    world = World(pathlib.Path(folder))
    names = [kind.__name__ for kind in world.kinds()]
    for seed in range(args.seed, args.seed + args.count):
      name = names[seed % len(names)]
      try:
        told[name, run(world, seed)] += 1
      except Exception as error:
        told[name, 'failed'] += 1
        print(f'seed {seed}, {name}: {type(error).__name__}: {str(error)[:300]}', flush=True)
        traceback.print_exc(limit=-2)
  for (name, what), count in sorted(told.items()):
    print(f'{name:<16}{what:<10}{count}')
  failed = sum(count for (_, what), count in told.items() if what == 'failed')
  print(f'{args.count} mutations, {failed} failed, {time.monotonic() - began:.0f} s')
  return bool(failed)


if __name__ == '__main__':
  sys.exit(main())
