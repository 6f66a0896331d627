"""How well a codec gives back what it was given."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from v2meow_jax.codec import losses, quantizer
from v2meow_jax.codec.codec import Codec


def reconstruct(codec: Codec, clips: Iterable[Float[np.ndarray, 'samples channels']]) -> dict[str, float]:
  """Means over clips of audio at the codec's rate.

  Returns:
    `log_mel` (see `losses.log_mel_distance`), `si_sdr` in dB, `codebook_used` (share of all codes that
    occur, over levels), `perplexity` of the codes over levels, `seconds` of audio measured.
  """
  distances, ratios, codes, samples = [], [], [], 0
  for audio in clips:
    tokens = codec.encode(audio)
    decoded = codec.decode(tokens)[: len(audio)]
    theirs, ours = jnp.asarray(audio.T), jnp.asarray(decoded.T)
    distances.append(float(losses.log_mel_distance(ours, theirs, codec.sample_rate)))
    ratios.append(float(jnp.mean(losses.si_sdr(ours, theirs))))
    codes.append(tokens)
    samples += len(audio)
  share, perplexity = jax.device_get(quantizer.usage(jnp.concatenate(codes), codec.stream.codes))
  return {
    'log_mel': float(np.mean(distances)),
    'si_sdr': float(np.mean(ratios)),
    'codebook_used': float(np.mean(share)),
    'perplexity': float(np.mean(perplexity)),
    'seconds': samples / codec.sample_rate,
  }
