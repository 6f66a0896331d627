"""Ships the top-level folder `gin/` inside the wheel as `v2meow_jax/gin`; all else is in pyproject.toml."""

import setuptools

setuptools.setup(
  packages=[*setuptools.find_packages(include=['v2meow_jax', 'v2meow_jax.*']), 'v2meow_jax.gin'],
  package_dir={'v2meow_jax.gin': 'gin'},
  package_data={'v2meow_jax.gin': ['**/*.gin']},
)
