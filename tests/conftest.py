"""Shared by all tests: the demo clip, and a bundle of small untrained networks."""

import pathlib

import pytest
import small


@pytest.fixture(scope='session')
def small_bundle(tmp_path_factory) -> pathlib.Path:
  """Path of the bundle; not to be changed."""
  return small.write_bundle(tmp_path_factory.mktemp('bundle') / 'small')


@pytest.fixture(scope='session')
def demo_clip() -> pathlib.Path:
  """The bundled real clip, 30 s long."""
  return small.ROOT / 'data' / 'demo' / 'big_buck_bunny.mp4'
