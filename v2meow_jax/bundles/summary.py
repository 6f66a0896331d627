"""What a bundle is, told to a person."""

import math

from v2meow_jax.bundles import types
from v2meow_jax.bundles.bundle import Bundle
from v2meow_jax.streams import Stream


def tell(loaded: Bundle) -> list[str]:
  """Lines for a person."""
  about = loaded.about
  lines = [f'{about.get("name") or loaded.directory.name}: format {about["format"]}']
  for name in ('licence', 'provenance', 'v2meow_jax'):
    lines.append(f'  {name}: {about.get(name) or "not said"}')
  codec = loaded.codec()
  lines.append(
    f'codec: {type(codec.config.network).__name__.removesuffix("Config")}, {codec.sample_rate} Hz, '
    f'{codec.channels} channel{"s" * (codec.channels > 1)}, {_stream(codec.stream)}, '
    f'{codec.stream.bits_per_second() / 1000:.2f} kbit/s'
  )
  for part in about['stages']:
    stage = types.stage(part)
    count = sum(math.prod(shape) for shape in loaded.sizes(part).values())
    config = types.transformer(part)
    lines.append(
      f'stage {stage.name}: {config.layers} layers of {config.width}, '
      f'{count / 1e6:.1f} million parameters, '
      f'{part.get("trained_steps", "?")} steps, crops of {float(stage.crop_seconds):g} s'
    )
    start, stop = stage.target.span
    lines.append(
      f'  predicts {_stream(stage.target.stream)}, levels {start} to {stop - 1}, {stage.target.pattern}'
    )
    for condition in stage.conditions:
      dropped = f'left out {condition.dropout:.0%} of the time' if condition.dropout else 'always there'
      lines.append(f'  given {_stream(condition.stream)}, {dropped} in training')
    chosen = {key: value for key, value in part['sampling'].items() if key not in ('type', 'suppress')}
    lines.append('  sampling: ' + ', '.join(f'{key} {value}' for key, value in chosen.items()))
  for identity in about['encoders']:
    weights = f', weights {identity["sha256"][:12]}' if 'sha256' in identity else ''
    lines.append(f'encoder {identity["encoder"]} {identity.get("model", "")}{weights}')
  if about.get('semantic'):
    lines.append(f'semantic encoder: {_stream(loaded.semantic().stream)}')
  size = sum(path.stat().length for path in loaded.directory.iterdir())
  lines.append(f'{len(loaded.parts()) + 1} files, {size / 1e6:.1f} MB')
  return lines


def _stream(stream: Stream) -> str:
  kind = f'{stream.width} x {stream.codes}' if stream.kind == 'tokens' else f'{stream.width} dimensions'
  return f'{stream.name} ({kind}, {float(stream.rate):g} Hz)'
