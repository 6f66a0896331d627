"""Ships the top-level folder `gin/` inside the wheel as `v2meow_jax/gin`; all else is in pyproject.toml."""

import pathlib

import setuptools

# setuptools calls any folder it ships a package.
gin = pathlib.Path(__file__).parent / 'gin'
folders = sorted(path.name for path in gin.iterdir() if path.is_dir())
gin_packages = ['v2meow_jax.gin', *(f'v2meow_jax.gin.{name}' for name in folders)]

setuptools.setup(
  packages=[*setuptools.find_packages(include=['v2meow_jax', 'v2meow_jax.*']), *gin_packages],
  package_dir={'v2meow_jax.gin': 'gin'},
  package_data={name: ['*.gin'] for name in gin_packages},
)
