"""How a codec is trained: its state, one step and its evaluation, as `training.protocols.Trainable`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

import gin
from v2meow_jax import description, errors, linen
from v2meow_jax.codec import losses, parts, quantizer
from v2meow_jax.codec.adversary import Adversary
from v2meow_jax.codec.codec import CodecConfig
from v2meow_jax.streams import DATASET
from v2meow_jax.training.optimizers import rate_metric


@gin.register
@dataclasses.dataclass(frozen=True)
class CodecTrainable:
  """Training of any codec network: by reconstruction, and against discriminators where there are any.

  The state holds parameters, optimiser states, codebooks, and a ring of recent latents. With
  `warmup_steps` the network learns without quantiser for so long, then k-means on the ring makes the
  codebooks; with none, `init` makes them of the first batch, as SoundStream does.

  Attributes:
    config: of the codec.
    optimizer: of the parameters; codebooks follow moving averages.
    adversary: discriminators; None: reconstruction alone.
    stream: name of the audio stream in the batches.
    warmup_steps: steps without quantiser.
    ring: latents that the codebooks are fitted on after the warm-up.
    mel_weight, convergence_weight, log_weight, complex_weight, commitment_weight: of the losses, each a mean.
    windows: of the spectral terms (convergence, logarithms, complex), in samples.
    decoder_only: encoder and codebooks stay as they are, so that a decoder goes on learning over tokens that
      were made already; for a warm start, without a warm-up.
    collapse: the step raises an alarm where the codes' perplexity, a running mean over some 20 steps and
      all levels, is below this share of the best it has been.
  """

  config: CodecConfig
  optimizer: optax.GradientTransformation
  adversary: Adversary | None = None
  stream: str = 'audio/waveform'
  warmup_steps: int = 200
  ring: int = 8192
  mel_weight: float = 1.0
  convergence_weight: float = 1.0
  log_weight: float = 0.0
  complex_weight: float = 0.2
  commitment_weight: float = 0.25
  windows: tuple[int, ...] = (512, 1024, 2048)
  decoder_only: bool = False
  collapse: float = 0.3

  layout = 'unrolled'
  microbatches = 1

  def __post_init__(self):
    if self.warmup_steps < 0 or self.ring < 1 or not 0 <= self.collapse < 1:
      raise errors.ConfigError(
        'CodecTrainable: warmup_steps >= 0, ring >= 1 and 0 <= collapse < 1 are needed'
      )
    if self.decoder_only and self.warmup_steps:
      raise errors.ConfigError('CodecTrainable: a decoder alone has no warm-up; set warmup_steps = 0')

  @property
  def _quantizer(self) -> quantizer.QuantizerConfig:
    config = self.config.quantizer
    if not isinstance(config, quantizer.QuantizerConfig):
      raise errors.ConfigError('CodecTrainable: only codebooks of a QuantizerConfig are trained here')
    return config

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
    return size * (samples // self.config.network.hop) * self._quantizer.levels

  def flops(self, batch: dict) -> float | None:
    """Unknown: convolutions of many shapes have no short formula."""
    del batch
    return None

  def init(self, rng: Array, batch: dict) -> dict:
    """The state of step 0; without a warm-up its codebooks are k-means of the batch's latents."""
    network, config = self.config.build(), self._quantizer
    hop = self.config.network.hop
    params = network.init(rng, jnp.zeros((1, 4 * hop, self.config.channels)))['params']
    state = {
      'step': jnp.zeros((), jnp.int32),
      'params': params,
      'opt_state': self.optimizer.init(params),
      'books': quantizer.empty(config),
      'perplexity': {'mean': jnp.zeros((), linen.real()), 'best': jnp.zeros((), linen.real())},
    }
    if self.warmup_steps:
      state['ring'] = jnp.zeros((self.ring, config.dimension))
    else:
      latents = linen.call(network, params, self._audio(batch), method='encode')
      flat = latents.reshape(-1, config.dimension)
      key = jax.random.fold_in(rng, 1)
      state['books'] = quantizer.fit(config, key, flat, uses=flat.shape[0] / config.codes)
    if self.adversary:
      state['adversary'] = self.adversary.init(jax.random.fold_in(rng, 2), self.config.channels)
    return state

  def _audio(self, batch: dict) -> Float[Array, 'batch samples channels']:
    audio = batch[self.stream]
    samples = audio.shape[1] - audio.shape[1] % self.config.network.hop
    return audio[:, :samples].astype(linen.real()) / 32768.0

  def _losses(self, audio, target, batch: dict) -> tuple[Array, dict]:
    examples = audio.shape[0]
    audio, target = _flat(audio), _flat(target)
    mels = losses.multi_scale_mel(audio, target, self.config.sample_rate)
    mel = jnp.mean(mels)
    convergence, logarithms, complex_error = losses.spectral(audio, target, self.windows)
    total = self.mel_weight * mel + self.convergence_weight * convergence
    total += self.log_weight * logarithms + self.complex_weight * complex_error
    metrics = {'mel': mel, 'convergence': convergence, 'log': logarithms, 'complex': complex_error}
    for key in (key for key in batch if key.startswith(DATASET)):
      # Of the loss that is one of single examples. Not a number where a batch has none of a dataset.
      mine = jnp.where(batch[key], jnp.mean(mels.reshape(examples, -1), -1), 0.0)
      metrics[f'mel_{key}'] = jnp.sum(mine) / jnp.sum(batch[key])
    return total, metrics

  def step(self, state: dict, batch: dict, rng: Array) -> tuple[dict, dict]:
    """One update; metrics are means over the batch."""
    network, config = self.config.build(), self._quantizer
    audio = self._audio(batch)
    warming = state['step'] < self.warmup_steps
    drop_key, books_key = jax.random.split(rng)

    def work(params):
      latents = linen.call(network, params, audio, method='encode')
      if self.decoder_only:
        latents = jax.lax.stop_gradient(latents)
      quantised, commitment, codes, residuals = quantizer.quantize(config, state['books'], latents, drop_key)
      decoded = linen.call(network, params, jnp.where(warming, latents, quantised), method='decode')
      return (decoded, jnp.where(warming, 0.0, commitment)), (latents, codes, residuals, commitment)

    (decoded, _), pull, (latents, codes, residuals, commitment) = jax.vjp(work, state['params'], has_aux=True)
    (loss, metrics), toward = jax.value_and_grad(self._losses, has_aux=True)(decoded, audio, batch)
    loss += self.commitment_weight * jnp.where(warming, 0.0, commitment)
    metrics |= {'loss': loss, 'commitment': commitment}
    state = dict(state)
    if self.adversary:
      made = self.adversary.step(state['adversary'], decoded, audio, state['step'])
      state['adversary'], adversarial, told = made
      # Both as they arrive at the decoder's output, before they are added up.
      ratio = optax.global_norm(adversarial) / jnp.maximum(optax.global_norm(toward), 1e-12)
      metrics |= told | {'gradient_ratio': ratio}
      toward = toward + adversarial
    weight = jnp.asarray(self.commitment_weight, commitment.dtype)
    (grads,) = pull((toward, weight))
    updates, state['opt_state'] = self.optimizer.update(grads, state['opt_state'], state['params'])
    metrics |= {'grad_norm': optax.global_norm(grads), 'param_norm': optax.global_norm(state['params'])}
    metrics |= rate_metric(self.optimizer, state['step'])
    kept = {
      name: value for name, value in state['params'].items() if self.decoder_only and parts.encodes(name)
    }
    moved: Any = optax.apply_updates(state['params'], updates)  # what has no gradient too, by weight decay
    state['params'] = moved | kept

    state, replaced = self._books(state, latents, codes, residuals, books_key)
    share, perplexity = quantizer.usage(codes, config.codes)
    for level in range(config.levels):
      metrics[f'perplexity_level_{level}'] = perplexity[level]
    metrics |= {'codebook_used_in_batch': jnp.mean(share), 'codes_replaced': jnp.mean(replaced)}
    state['perplexity'], alarm = self._watch(state['perplexity'], jnp.mean(perplexity), warming)
    state['step'] = state['step'] + 1
    return state, metrics | {'alarm/codebooks': alarm}

  def _books(self, state: dict, latents, codes, residuals, key: Array) -> tuple[dict, Array]:
    """The state with its codebooks moved, or fitted at the end of the warm-up; and the shares replaced."""
    config, books = self._quantizer, state['books']
    if self.decoder_only:
      return state, jnp.zeros(config.levels, books.counts.dtype)
    if not self.warmup_steps:
      books, replaced = quantizer.update(config, books, codes, residuals, key)
      return state | {'books': books}, replaced
    flat = jax.lax.stop_gradient(latents).reshape(-1, config.dimension)
    ring = jnp.concatenate([flat, state['ring']])[: self.ring]
    filled = min(self.ring, self.warmup_steps * flat.shape[0])  # the rest of the ring is still zeros
    none = jnp.zeros(config.levels, books.counts.dtype)
    place = jnp.clip(state['step'] - (self.warmup_steps - 1), -1, 1) + 1
    books, replaced = jax.lax.switch(
      place,
      (
        lambda: (books, none),
        lambda: (quantizer.fit(config, key, ring[:filled], uses=flat.shape[0] / config.codes), none),
        lambda: quantizer.update(config, books, codes, residuals, key),
      ),
    )
    return state | {'books': books, 'ring': ring}, replaced

  def _watch(self, running: dict, perplexity: Array, warming: Array) -> tuple[dict, Array]:
    """The running mean of the perplexity, and whether it has fallen too far."""
    mean = jnp.where(running['mean'] == 0, perplexity, 0.95 * running['mean'] + 0.05 * perplexity)
    mean = jnp.where(warming, 0.0, mean)
    best = jnp.maximum(running['best'], mean)
    return {'mean': mean, 'best': best}, (mean < self.collapse * best).astype(mean.dtype)

  def evaluate(self, state: dict, batch: dict) -> dict:
    """Losses and distances with all levels in use; `weight` is what a batch counts in the mean."""
    network, config = self.config.build(), self._quantizer
    audio = self._audio(batch)
    latents = linen.call(network, state['params'], audio, method='encode')
    quantised, commitment, codes, _ = quantizer.quantize(config, state['books'], latents)
    warming = state['step'] < self.warmup_steps
    decoded = linen.call(network, state['params'], jnp.where(warming, latents, quantised), method='decode')
    loss, metrics = self._losses(decoded, audio, batch)
    share, perplexity = quantizer.usage(codes, config.codes)
    ours, theirs = _flat(decoded), _flat(audio)
    return metrics | {
      'loss': loss,
      'commitment': commitment,
      'log_mel': losses.log_mel_distance(ours, theirs, self.config.sample_rate),
      'si_sdr': jnp.mean(losses.si_sdr(ours, theirs)),
      'stft': losses.multi_resolution_stft(ours, theirs),
      'codebook_used_in_batch': jnp.mean(share),
      'perplexity': jnp.mean(perplexity),
      'weight': jnp.asarray(audio.shape[0], loss.dtype),
    }

  def describe(self) -> dict:
    """What an export needs to know besides the state."""
    return {'kind': 'codec', 'codec': description.describe(self.config)}

  def weights(self, state: dict) -> dict:
    """The part of the state that a bundle holds."""
    return {'params': state['params'], 'codebooks': state['books'].vectors}

  def with_weights(self, state: dict, weights: dict) -> dict:
    """A fresh state that begins with these weights; its codebooks are not fitted anew."""
    config = self._quantizer
    # Well above what is dead, so that a code has time to be used before it is judged.
    uses = jnp.full((config.levels, config.codes), 2.0 * max(config.dead_below, 1.0))
    books = quantizer.Codebooks(
      vectors=weights['codebooks'], counts=uses, sums=weights['codebooks'] * uses[..., None]
    )
    return state | {'step': jnp.int32(self.warmup_steps), 'params': weights['params'], 'books': books}


def _flat(audio: Float[Array, 'batch samples channels']) -> Float[Array, 'rows samples']:
  """Channels as examples of their own."""
  return jnp.swapaxes(audio, 1, 2).reshape(-1, audio.shape[1])
