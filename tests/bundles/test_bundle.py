"""Bundles: what is written is what is read, and what is damaged is refused in a sentence."""

import json
import shutil

import numpy as np
import pytest
import small

from v2meow_jax import bundles, errors
from v2meow_jax.bundles.faults import faults
from v2meow_jax.bundles.types import FORMAT
from v2meow_jax.encoders import registry


def copy_of(small_bundle, tmp_path):
  return shutil.copytree(small_bundle, tmp_path / 'copy')


def test_a_float32_bundle_gives_back_the_weights_bit_for_bit(small_bundle):
  codec = small.make_codec()
  loaded = bundles.load(small_bundle).codec()
  for path, value in small.flat(codec.weights).items():
    np.testing.assert_array_equal(small.flat(loaded.weights)[path], value)
  assert loaded.identity == codec.identity


def test_a_float16_bundle_is_about_half_the_size_and_close(small_bundle, tmp_path):
  half = small.write_bundle(tmp_path / 'half', 'float16')
  whole_size, half_size = ((d / 'codec.safetensors').stat().st_size for d in (small_bundle, half))
  assert half_size < 0.6 * whole_size
  whole = small.flat(bundles.load(small_bundle).codec().weights)
  for path, value in small.flat(bundles.load(half).codec().weights).items():
    # float16 keeps 11 bits.
    np.testing.assert_allclose(value, whole[path], rtol=2**-11, atol=1e-7)
  assert bundles.load(half).codec().identity == bundles.load(small_bundle).codec().identity


def test_stages_come_back_with_their_settings(small_bundle):
  runners = bundles.load(small_bundle).stages()
  expected = small.make_stages(small.make_codec())
  assert [(r.stage, r.model.config) for r in runners] == expected


def test_a_missing_file_is_named(small_bundle, tmp_path):
  folder = copy_of(small_bundle, tmp_path)
  (folder / 'stage_fine.safetensors').unlink()
  with pytest.raises(errors.BundleError, match=r'stage_fine\.safetensors: missing'):
    bundles.load(folder)


@pytest.mark.parametrize('name', ['codec.safetensors', 'stage_coarse.safetensors', 'semantic.safetensors'])
def test_one_flipped_bit_is_noticed(small_bundle, tmp_path, name):
  folder = copy_of(small_bundle, tmp_path)
  data = bytearray((folder / name).read_bytes())
  data[-1] ^= 1
  (folder / name).write_bytes(data)
  with pytest.raises(errors.BundleError, match=f'{name}: damaged'):
    bundles.load(folder)


@pytest.mark.parametrize('text', ['', '{', '[]', '{"format": 1}', '{"format": 1, "codec": 3, "stages": []}'])
def test_a_damaged_json_is_refused(small_bundle, tmp_path, text):
  folder = copy_of(small_bundle, tmp_path)
  (folder / 'bundle.json').write_text(text)
  with pytest.raises(errors.BundleError, match=r'bundle\.json'):
    bundles.load(folder)


def test_a_newer_format_is_refused(small_bundle, tmp_path):
  folder = copy_of(small_bundle, tmp_path)
  about = json.loads((folder / 'bundle.json').read_text())
  (folder / 'bundle.json').write_text(json.dumps(about | {'format': FORMAT + 1}))
  with pytest.raises(errors.BundleError, match='update'):
    bundles.load(folder)


def test_a_file_outside_of_the_folder_is_not_read(small_bundle, tmp_path):
  folder = copy_of(small_bundle, tmp_path)
  about = json.loads((folder / 'bundle.json').read_text())
  about['codec']['file'] = '../copy/codec.safetensors'
  (folder / 'bundle.json').write_text(json.dumps(about))
  with pytest.raises(errors.BundleError, match='missing'):
    bundles.load(folder)


def test_an_encoder_that_has_changed_is_refused(small_bundle):
  identity = bundles.load(small_bundle).about['encoders'][0]
  with pytest.raises(errors.BundleError, match='not the one'):
    registry.build(identity | {'columns': ['brightness']}, small_bundle)
  with pytest.raises(errors.BundleError, match='unknown'):
    registry.build({'encoder': 'clairvoyance'}, small_bundle)


def test_an_existing_folder_is_not_overwritten(small_bundle):
  before = sorted(path.stat().st_mtime_ns for path in small_bundle.iterdir())
  with pytest.raises(errors.BundleError, match='exists already'):
    small.write_bundle(small_bundle)
  assert sorted(path.stat().st_mtime_ns for path in small_bundle.iterdir()) == before


def test_weights_that_overflow_float16_are_refused_and_leave_nothing(tmp_path):
  codec = small.make_codec()
  weights = codec.weights | {'codebooks': codec.weights['codebooks'] * 1e9}
  part = bundles.Network('codec', {}, weights)
  with np.errstate(over='ignore'), pytest.raises(errors.BundleError, match='codebooks'):
    bundles.write(tmp_path / 'b', codec=part, stages=[], encoders=[], dtype='float16')
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ('name', 'stages'), [('bach', ['pulse', 'acoustic']), ('tiny', ['semantic', 'coarse', 'fine'])]
)
def test_the_bundled_models_are_whole_although_an_earlier_version_wrote_one(name, stages):
  bundled = bundles.load(small.ROOT / 'data' / name)
  assert faults(bundled) == []
  assert [runner.stage.name for runner in bundled.stages()] == stages
