"""Which combinations there are, against the same written out as loops."""

import itertools

import pytest

from v2meow_jax import errors
from v2meow_jax.sweeps.axes import Axis, Zip, labels, points

LAYERS = Axis('layers', 'TransformerConfig.layers', (2, 4, 8))
WIDTH = Axis('width', 'TransformerConfig.width', (64, 96))
RATE = Axis('rate', 'PEAK_LEARNING_RATE', (1e-3, 3e-4))
POSITIONS = Axis('positions', settings={'t5': ("A.positions = 'relative'", 'A.aligned = False'), 'rope': ()})


def values(found):
  return [tuple(choice.value for choice in point.values()) for point in found]


def test_all_combinations_in_the_order_of_nested_loops():
  assert values(points([LAYERS, WIDTH, RATE])) == list(itertools.product((2, 4, 8), (64, 96), (1e-3, 3e-4)))
  assert points([]) == [{}]


def test_zipped_axes_move_together():
  found = points([Zip((LAYERS, Axis('mlp', 'mlp', (128, 256, 512)))), WIDTH])
  assert values(found) == [(2, 128, 64), (2, 128, 96), (4, 256, 64), (4, 256, 96), (8, 512, 64), (8, 512, 96)]
  with pytest.raises(errors.ConfigError, match='layers has 3, width has 2'):
    Zip((LAYERS, WIDTH))
  again = Zip((Axis('a', 'p', (1, 1)), Axis('b', 'q', (2, 3))))
  assert values(points([again])) == [(1, 2), (1, 3)]


def test_exclusions_and_constraints_leave_what_the_loops_leave():
  found = points(
    [LAYERS, WIDTH, RATE],
    exclude=({'layers': 8, 'width': 64},),
    require=('layers * width <= 400 or rate < 0.001', 'width % layers == 0'),
  )
  wanted = [
    (l, w, r)
    for l, w, r in itertools.product((2, 4, 8), (64, 96), (1e-3, 3e-4))
    if not (l == 8 and w == 64) and (l * w <= 400 or r < 1e-3) and w % l == 0
  ]
  assert values(found) == wanted and 0 < len(wanted) < 12


def test_settings_are_chosen_and_compared_by_their_label():
  found = points([POSITIONS, WIDTH], require=("positions == 't5' or width in (64, 32)",))
  assert [' '.join(labels(point)) for point in found] == [
    'positions=t5 width=64', 'positions=t5 width=96', 'positions=rope width=64',
  ]  # fmt: skip
  assert found[0]['positions'].statements == ("A.positions = 'relative'", 'A.aligned = False')
  assert found[0]['width'].statements == ('TransformerConfig.width = 64',)


def test_values_become_gin_as_gin_writes_them():
  axis = Axis('levels', 'FINE_LEVELS', ((3, 6), (3, 4)))
  assert [choice.statements for choice in axis.choices] == [
    ('FINE_LEVELS = (3, 6)',),
    ('FINE_LEVELS = (3, 4)',),
  ]
  assert [choice.label for choice in axis.choices] == ['3-6', '3-4']


@pytest.mark.parametrize(
  ('make', 'words'),
  [
    (lambda: Axis('a', 'p', ()), 'give either values'),
    (lambda: Axis('a', 'p', (1,), {'x': ()}), 'give either values'),
    (lambda: Axis('a b', 'p', (1,)), 'letters, digits'),
    (lambda: points([Axis('a', 'p', (1, 1))]), '1 is there twice'),
    (lambda: Axis(parameter='p', values=(1,)), 'has no name'),
    (lambda: points([LAYERS, LAYERS]), 'two axes are called layers'),
    (lambda: points([LAYERS], exclude=({'layer': 2},)), 'there is no axis layer; there are layers'),
    (lambda: points([LAYERS], exclude=({'layers': 3},)), 'axis layers has no 3; it has 2, 4, 8'),
    (lambda: points([LAYERS], require=('layer > 2',)), 'there is no axis layer'),
    (lambda: points([LAYERS], require=('layers >',)), "constraint 'layers >'"),
    (lambda: points([LAYERS], require=('layers > "a"',)), 'not supported'),
    (lambda: points([LAYERS], require=('__import__("os")',)), 'Call may not stand'),
    (lambda: points([LAYERS], require=('layers.real > 1',)), 'Attribute may not stand'),
    (lambda: points([LAYERS], require=('layers > 8',)), 'no combination is left'),
  ],
)
def test_what_is_wrong_is_told(make, words):
  with pytest.raises(errors.ConfigError, match=words.replace('(', r'\(').replace('[', r'\[')):
    make()
