"""Estimated times of a step, by hand."""

import dataclasses

import pytest

from v2meow_jax.experiment import roofline
from v2meow_jax.experiment.compilation import Compiled

# 197 TFLOP/s, 819 GB/s of memory and 200 GB/s of links a chip: a step of one second of products.
STEP = Compiled(
  devices='4 x TPU v5 lite', mesh={}, parameters=1, arguments=0, temporaries=0, peak=0, flops=197e12 / 10,
  bytes=819e9 / 20, model_flops=4 * 197e12, collectives={'all-gather': (3, 200e9 / 40)}, placed=[], seconds=1,
)  # fmt: skip


def test_bytes_are_moved_as_often_as_products_are_made():
  # A tenth of the FLOPs was counted, so bodies run ten times.
  made = roofline.estimate(STEP, 'none')
  assert (made.products, made.memory, made.network) == pytest.approx((1, 0.5, 0.25))
  assert made.seconds == pytest.approx(1) and made.bound == 'products'
  assert made.utilisation(made.seconds) == pytest.approx(1)
  assert made.utilisation(made.serial) == pytest.approx(1 / 1.75)


def test_layers_that_are_computed_again_cost_a_third_more_and_are_no_model_flops():
  made = roofline.estimate(STEP, 'full')
  assert made.products == pytest.approx(4 / 3) and made.utilisation(made.seconds) == pytest.approx(3 / 4)


def test_what_memory_or_links_bound_is_told():
  slow = dataclasses.replace(STEP, bytes=819e9)
  assert roofline.estimate(slow, 'none').bound == 'memory'
  assert roofline.estimate(slow, 'none').seconds == pytest.approx(10)


@pytest.mark.parametrize(
  'changed', [{'devices': '1 x cpu'}, {'model_flops': None}, {'flops': float('nan')}, {'flops': 0.0}]
)
def test_of_what_is_not_known_nothing_is_estimated(changed):
  assert roofline.estimate(dataclasses.replace(STEP, **changed), 'none') is None
