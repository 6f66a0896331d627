"""How well a codec gives back what it was given."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from v2meow_jax.codec import losses, quantizer
from v2meow_jax.codec.codec import Codec
from v2meow_jax.evaluation import bootstrap


def reconstruct(
  codec: Codec,
  clips: Iterable[Float[np.ndarray, 'samples channels']],
  tracks: Sequence[Hashable] | None = None,
) -> dict[str, Any]:
  """Means over clips of audio at the codec's rate, one in memory at a time.

  Args:
    codec: which.
    clips: audio.
    tracks: of each clip, by which intervals are drawn; by default each is one.

  Returns:
    `log_mel` (see `losses.log_mel_distance`), `stft` (see `losses.multi_resolution_stft`) and `si_sdr` in dB,
    each an `Estimate.told`; `codebook_used` (share of all codes that occur, over levels), `perplexity` of the
    codes over levels, `seconds` of audio measured.
  """
  rows: dict[str, list[float]] = {'log_mel': [], 'stft': [], 'si_sdr': []}
  codes, samples = [], 0
  for audio in clips:
    tokens = codec.encode(audio)
    decoded = codec.decode(tokens)[: len(audio)]
    theirs, ours = jnp.asarray(audio.T), jnp.asarray(decoded.T)
    rows['log_mel'].append(float(losses.log_mel_distance(ours, theirs, codec.sample_rate)))
    rows['stft'].append(float(losses.multi_resolution_stft(ours, theirs)))
    rows['si_sdr'].append(float(jnp.mean(losses.si_sdr(ours, theirs))))
    codes.append(tokens)
    samples += len(audio)
  share, perplexity = jax.device_get(quantizer.usage(jnp.concatenate(codes), codec.stream.codes))
  about = {'log_mel': ('', 'lower'), 'stft': ('', 'lower'), 'si_sdr': ('dB', 'higher')}
  told = {
    name: bootstrap.mean(np.array(values), tracks, unit=about[name][0], better=about[name][1]).told()
    for name, values in rows.items()
  }
  return told | {
    'codebook_used': float(np.mean(share)),
    'perplexity': float(np.mean(perplexity)),
    'seconds': samples / codec.sample_rate,
  }
