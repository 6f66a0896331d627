"""Reconstruction of a codec that is known to be bad."""

import numpy as np
import pytest
import small

from v2meow_jax.evaluation import reconstruction


def test_an_untrained_codec_is_reported_as_bad():
  rng = np.random.default_rng(0)
  clips = [(0.1 * rng.standard_normal((n, 1))).astype(np.float32) for n in (16000, 8000)]
  codec = small.make_codec()
  found = reconstruction.reconstruct(codec, clips)
  assert found['seconds'] == 3
  assert found['si_sdr']['value'] < -10 and found['log_mel']['value'] > 0.3 and found['stft']['count'] == 2
  codes = np.concatenate([codec.encode(clip) for clip in clips])
  used = np.mean([len(np.unique(codes[:, k])) / 16 for k in range(4)])
  assert found['codebook_used'] == pytest.approx(used)
