"""Flags of commands that open bundles: where pretrained networks lie."""

import argparse

from v2meow_jax.encoders import registry


def add(parser: argparse.ArgumentParser) -> None:
  """One flag for each pretrained network."""
  for entry in registry.pretrained():
    told = f'folder or id of the {entry.name.upper()} model, where not the one in the bundle'
    parser.add_argument(f'--{entry.name}', help=told)


def chosen(args: argparse.Namespace) -> dict[str, str]:
  """Places by encoder, of those that were given."""
  given = ((entry.name, getattr(args, entry.name)) for entry in registry.pretrained())
  return {name: place for name, place in given if place}
