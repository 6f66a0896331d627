"""The codec as an encoder that preparation can be asked for: a run's or a bundle's."""

from v2meow_jax import stores
from v2meow_jax.bundles import load_codec
from v2meow_jax.encoders.entry import Entry, Option

CODEC = Entry(
  'codec',
  'audio/acoustic',
  make=lambda given: load_codec(given.options['codec']),
  options=(Option('codec', 'a codec run or bundle, instead of --bundle', stores.address),),
  needs=('codec',),
  wanted='--bundle, or --codec with a codec run or bundle',
)
