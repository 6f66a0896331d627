"""How a codec is trained: its state, one step and its evaluation, as `training.protocols.Trainable`."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

import gin
from v2meow_jax import description, errors, linen
from v2meow_jax.codec import losses, quantizer
from v2meow_jax.codec.codec import CodecConfig


@gin.register
@dataclasses.dataclass(frozen=True)
class CodecTrainable:
  """Reconstruction training of any codec network; no discriminator.

  The state holds parameters, optimiser state, codebooks, and a ring of recent latents: for
  `warmup_steps` the network learns without quantiser, then k-means on the ring makes the codebooks.

  Attributes:
    config: of the codec.
    optimizer: of the parameters; codebooks follow moving averages.
    stream: name of the audio stream in the batches.
    warmup_steps: steps without quantiser, at least 1.
    ring: latents that the codebooks are fitted on.
    mel_weight, convergence_weight, complex_weight, commitment_weight: of the losses, each a mean.
    windows: of the spectral convergence and complex terms, in samples.
  """

  config: CodecConfig
  optimizer: optax.GradientTransformation
  stream: str = 'audio/waveform'
  warmup_steps: int = 200
  ring: int = 8192
  mel_weight: float = 1.0
  convergence_weight: float = 1.0
  complex_weight: float = 0.2
  commitment_weight: float = 0.25
  windows: tuple[int, ...] = (512, 1024, 2048)

  layout = 'unrolled'
  microbatches = 1

  def with_layout(self, layout: str) -> 'CodecTrainable':
    """Itself: there is but one layout."""
    if layout != self.layout:
      raise errors.ConfigError(f'a codec has no layout {layout!r}')
    return self

  def relayout(self, tree, layout: str):
    """The tree: there is but one layout."""
    self.with_layout(layout)
    return tree

  def tokens(self, batch: dict) -> int:
    """Tokens that a batch is coded in."""
    size, samples = batch[self.stream].shape[:2]
    return size * (samples // self.config.network.hop) * self.config.quantizer.levels

  def flops(self, batch: dict) -> float | None:
    """Unknown: convolutions of many shapes have no short formula."""
    del batch
    return None

  def init(self, rng: Array, batch: dict) -> dict:
    """The state of step 0."""
    network = self.config.build()
    hop = self.config.network.hop
    audio = jnp.zeros((1, 4 * hop, self.config.channels))
    params = network.init(rng, audio)['params']
    return {
      'step': jnp.zeros((), jnp.int32),
      'params': params,
      'opt_state': self.optimizer.init(params),
      'books': quantizer.empty(self.config.quantizer),
      'ring': jnp.zeros((self.ring, self.config.quantizer.dimension)),
    }

  def _audio(self, batch: dict) -> Float[Array, 'batch samples channels']:
    audio = batch[self.stream]
    samples = audio.shape[1] - audio.shape[1] % self.config.network.hop
    return audio[:, :samples].astype(linen.real()) / 32768.0

  def _losses(self, audio, target) -> tuple[Array, dict]:
    flat = lambda x: jnp.swapaxes(x, 1, 2).reshape(-1, x.shape[1])  # noqa: E731 (channels as examples)
    audio, target = flat(audio), flat(target)
    mel = losses.multi_scale_mel(audio, target, self.config.sample_rate)
    convergence, complex_error = losses.spectral_convergence_and_complex(audio, target, self.windows)
    total = (
      self.mel_weight * mel + self.convergence_weight * convergence + self.complex_weight * complex_error
    )
    return total, {'mel': mel, 'convergence': convergence, 'complex': complex_error}

  def step(self, state: dict, batch: dict, rng: Array) -> tuple[dict, dict]:
    """One update; metrics are means over the batch."""
    network, config = self.config.build(), self.config.quantizer
    audio = self._audio(batch)
    warming = state['step'] < self.warmup_steps
    drop_key, books_key = jax.random.split(rng)

    def loss_fn(params):
      latents = linen.call(network, params, audio, method='encode')
      quantised, commitment, codes, observed = quantizer.quantize(config, state['books'], latents, drop_key)
      decoded = linen.call(network, params, jnp.where(warming, latents, quantised), method='decode')
      loss, metrics = self._losses(decoded, audio)
      loss += self.commitment_weight * jnp.where(warming, 0.0, commitment)
      return loss, (metrics | {'loss': loss, 'commitment': commitment}, latents, codes, observed)

    grads, (metrics, latents, codes, observed) = jax.grad(loss_fn, has_aux=True)(state['params'])
    updates, opt_state = self.optimizer.update(grads, state['opt_state'], state['params'])

    flat = jax.lax.stop_gradient(latents).reshape(-1, config.dimension)
    ring = jnp.concatenate([flat, state['ring']])[: self.ring]
    filling = state['step'] == self.warmup_steps - 1
    filled = min(self.ring, self.warmup_steps * flat.shape[0])  # the rest of the ring is still zeros
    books = jax.lax.cond(
      filling,
      lambda: quantizer.fit(config, books_key, ring[:filled], uses=flat.shape[0] / config.codes),
      lambda: jax.lax.cond(
        warming,
        lambda: state['books'],
        lambda: quantizer.update(config, state['books'], codes, observed, books_key),
      ),
    )
    share, perplexity = quantizer.usage(codes, config.codes)
    metrics |= {
      'grad_norm': optax.global_norm(grads),
      'param_norm': optax.global_norm(state['params']),
      'codebook_used_in_batch': jnp.mean(share),
      'perplexity_first': perplexity[0],
      'perplexity_last': perplexity[-1],
    }
    state = {
      'step': state['step'] + 1,
      'params': optax.apply_updates(state['params'], updates),
      'opt_state': opt_state,
      'books': books,
      'ring': ring,
    }
    return state, metrics

  def evaluate(self, state: dict, batch: dict) -> dict:
    """Losses and distances with all levels in use; `weight` is what a batch counts in the mean."""
    network, config = self.config.build(), self.config.quantizer
    audio = self._audio(batch)
    latents = linen.call(network, state['params'], audio, method='encode')
    quantised, commitment, codes, _ = quantizer.quantize(config, state['books'], latents)
    warming = state['step'] < self.warmup_steps
    decoded = linen.call(network, state['params'], jnp.where(warming, latents, quantised), method='decode')
    loss, metrics = self._losses(decoded, audio)
    share, perplexity = quantizer.usage(codes, config.codes)
    return metrics | {
      'loss': loss,
      'commitment': commitment,
      'log_mel': losses.log_mel_distance(decoded[..., 0], audio[..., 0], self.config.sample_rate),
      'si_sdr': jnp.mean(losses.si_sdr(decoded[..., 0], audio[..., 0])),
      'codebook_used_in_batch': jnp.mean(share),
      'perplexity': jnp.mean(perplexity),
      'weight': jnp.float32(audio.shape[0]),
    }

  def describe(self) -> dict:
    """What an export needs to know besides the state."""
    return {'kind': 'codec', 'codec': description.describe(self.config)}

  def weights(self, state: dict) -> dict:
    """The part of the state that a bundle holds."""
    return {'params': state['params'], 'codebooks': state['books'].vectors}

  def with_weights(self, state: dict, weights: dict) -> dict:
    """A fresh state that begins with these weights; its codebooks are not fitted anew."""
    config = self.config.quantizer
    # Well above what is dead, so that a code has time to be used before it is judged.
    uses = jnp.full((config.levels, config.codes), 2.0 * max(config.dead_below, 1.0))
    books = quantizer.Codebooks(
      vectors=weights['codebooks'], counts=uses, sums=weights['codebooks'] * uses[..., None]
    )
    return state | {'step': jnp.int32(self.warmup_steps), 'params': weights['params'], 'books': books}
