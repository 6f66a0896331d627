"""Checkpoints that T5X wrote (tools/make_t5x_fixtures.py), unpacked."""

import pathlib
import tarfile

import numpy as np
import pytest

FIXTURES = pathlib.Path(__file__).parent / 'fixtures'


def unpack(name: str, folder: pathlib.Path) -> pathlib.Path:
  with tarfile.open(FIXTURES / f'{name}.tar.xz') as archive:
    archive.extractall(folder, filter='data')
  return folder


@pytest.fixture(scope='session')
def model_dirs(tmp_path_factory):
  """A model_dir of T5X's decoder-only network by format; not to be changed."""
  return {
    name: unpack(f'decoder_only_{name}', tmp_path_factory.mktemp(name))
    for name in ('msgpack', 'orbax', 'bfloat16')
  }


@pytest.fixture
def own_model_dir(tmp_path):
  """A function from a format to a model_dir that the test may damage."""
  return lambda name: unpack(f'decoder_only_{name}', tmp_path / name)


@pytest.fixture(scope='session')
def expected():
  """What T5X computed with that network."""
  with np.load(FIXTURES / 'decoder_only.npz') as found:
    return dict(found)
