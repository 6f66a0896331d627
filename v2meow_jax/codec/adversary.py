"""The adversarial part of training: hinge and feature losses, and the discriminators' own optimiser."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

import gin
from v2meow_jax import errors, linen
from v2meow_jax.codec.discriminators import DiscriminatorConfig, Discriminators, Judgement

Audio = Float[Array, 'batch samples channels']
# What the discriminators' loss is while they cannot tell the two apart: hinge of 0, twice.
UNDECIDED = 2.0


def hinge(real: list[Judgement], fake: list[Judgement]) -> Array:
  """The discriminators' loss: mean of relu(1 - D(x)) + relu(1 + D(G(x))).

  SoundStream, equation 1; a mean over logits, then over discriminators.
  """
  each = [
    jnp.mean(jax.nn.relu(1 - r)) + jnp.mean(jax.nn.relu(1 + f))
    for (r, _), (f, _) in zip(real, fake, strict=True)
  ]
  return jnp.mean(jnp.stack(each))


def deception(fake: list[Judgement]) -> Array:
  """The codec's adversarial loss: mean of relu(1 - D(G(x))); equation 2, means as in `hinge`."""
  return jnp.mean(jnp.stack([jnp.mean(jax.nn.relu(1 - logits)) for logits, _ in fake]))


def feature_distance(real: list[Judgement], fake: list[Judgement]) -> Array:
  """L1 distance of the discriminators' features; equation 3: means over values, layers and discriminators."""
  each = [
    jnp.mean(jnp.abs(r - f)) for (_, ours), (_, theirs) in zip(real, fake, strict=True)
    for r, f in zip(ours, theirs, strict=True)
  ]  # fmt: skip
  return jnp.mean(jnp.stack(each))


@gin.register
@dataclasses.dataclass(frozen=True)
class Adversary:
  """Discriminators, how they are trained, and what they weigh.

  Attributes:
    discriminators: their settings.
    optimizer: theirs.
    weight, feature_weight: of the two losses (SoundStream, III-F: 1 and 100); both are means.
    start: step from which on they are trained and listened to.
    hold_below: while the running mean of their loss is below this they are not trained: they have won
      by too much to teach. The loss is 2 while they cannot tell at all.
    saturated_below, unstable_above: where the running mean is outside of this, the step raises an alarm.
  """

  discriminators: DiscriminatorConfig
  optimizer: optax.GradientTransformation
  weight: float = 1.0
  feature_weight: float = 100.0
  start: int = 0
  hold_below: float = 0.5
  saturated_below: float = 0.05
  unstable_above: float = 10.0

  def __post_init__(self):
    if min(self.weight, self.feature_weight, self.start, self.hold_below, self.saturated_below) < 0:
      raise errors.ConfigError('Adversary: weights, start and limits must not be negative')

  def init(self, rng: Array, channels: int) -> dict:
    """State: parameters, optimiser state, and the running mean of the loss."""
    longest = 4 * max((*self.discriminators.windows, 256))
    network = Discriminators(self.discriminators)
    params = network.init(rng, jnp.zeros((1, longest, channels)))['params']
    return {
      'params': params,
      'opt_state': self.optimizer.init(params),
      'balance': jnp.asarray(UNDECIDED, linen.real()),
    }

  def step(self, state: dict, decoded: Audio, audio: Audio, number: Array) -> tuple[dict, Audio, dict]:
    """One update of the discriminators, and what they tell the codec, both by the parameters before it.

    Args:
      state: as `init` made it.
      decoded, audio: the codec's output and the original.
      number: of the step.

    Returns:
      The new state; the gradient of `weight` x deception + `feature_weight` x feature distance with
      respect to `decoded`; metrics. Before `start` the state is unchanged and the rest zeros.
    """

    def judge(params, x):
      return linen.call(Discriminators(self.discriminators), params, x)

    # Computed before `start` too, and discarded: within a conditional XLA's convolutions on CPUs take 15
    # times as long.
    on = number >= self.start
    real, pull_real = jax.vjp(lambda params: judge(params, audio), state['params'])
    fake, pull_fake = jax.vjp(judge, state['params'], decoded)
    loss, (to_real, to_fake) = jax.value_and_grad(hinge, (0, 1))(real, fake)
    grads = jax.tree.map(jnp.add, pull_real(to_real)[0], pull_fake(to_fake)[0])
    updates, opt_state = self.optimizer.update(grads, state['opt_state'], state['params'])
    balance = 0.99 * state['balance'] + 0.01 * loss
    taught = {'params': optax.apply_updates(state['params'], updates), 'opt_state': opt_state}
    old = {name: state[name] for name in taught}
    hold = balance < self.hold_below
    new = jax.tree.map(lambda a, b: jnp.where(hold | ~on, a, b), old, taught)
    new['balance'] = jnp.where(on, balance, state['balance'])

    def to_codec(fake):
      parts = deception(fake), feature_distance(real, fake)
      return self.weight * parts[0] + self.feature_weight * parts[1], parts

    toward, (deceived, distance) = jax.grad(to_codec, has_aux=True)(fake)
    metrics = {
      'discriminator_loss': loss,
      'discriminator_grad_norm': optax.global_norm(grads),
      'discriminator_held': hold.astype(loss.dtype),
      'real_logit': sum(jnp.mean(logits) for logits, _ in real) / len(real),
      'fake_logit': sum(jnp.mean(logits) for logits, _ in fake) / len(fake),
      'adversarial': deceived,
      'features': distance,
    }
    out = (new['balance'] < self.saturated_below) | (new['balance'] > self.unstable_above)
    metrics = {name: jnp.where(on, value, 0.0) for name, value in metrics.items()}
    metrics |= {
      'discriminator_balance': new['balance'],
      'alarm/discriminator': out.astype(loss.dtype),
    }
    return new, jnp.where(on, pull_fake(toward)[1], 0.0), metrics
