"""Pictures of pieces: what is written on them stays apart."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from v2meow_jax import drawing
from v2meow_jax.streams import Stream


def noise(*shape):
  return np.random.default_rng(0).standard_normal(shape)


def streams(count):
  made = [(Stream('video/motion', 'embedding', Fraction(4), 14), noise(8, 14))]
  for number in range(1, count):
    name = f'video/a_stream_with_a_name_that_is_long_{number}'
    made.append((Stream(name, 'embedding', Fraction(4), 3), noise(8, 3)))
  return made[:count]


@pytest.mark.parametrize('count', [0, 1, 2, 8])
@pytest.mark.parametrize('film', [False, True])
def test_titles_and_names_stay_within_the_picture_and_off_the_panels(count, film):
  pictures = np.zeros((3, 9, 16, 3), np.uint8) if film else None
  figure = drawing.drawn(0.1 * noise(48000, 1), 48000, streams(count), 'A title, seed 0', pictures)
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  renderer, whole = canvas.get_renderer(), figure.bbox
  assert figure._suptitle.get_window_extent(renderer).y0 > figure.axes[0].bbox.y1
  assert figure._suptitle.get_window_extent(renderer).y1 < whole.y1
  names = [panel.yaxis.label.get_window_extent(renderer) for panel in figure.axes]
  for name in names:
    assert name.height == 0 or (name.x0 >= 0 and name.y0 >= 0 and name.y1 <= whole.y1)
  for above, below in itertools.pairwise(names):
    assert above.height == 0 or above.y0 > below.y1
  times = figure.axes[-1].xaxis.label.get_window_extent(renderer)
  assert times.y0 >= 0


def test_the_file_holds_the_figure(tmp_path):
  drawing.draw(tmp_path / 'a.png', 0.1 * noise(8000, 1), 8000, streams(1), 'A title')
  with Image.open(tmp_path / 'a.png') as picture:
    assert picture.size == (1200, 400) and picture.info['dpi'][0] == pytest.approx(100, abs=0.1)
    assert len(np.unique(np.asarray(picture)[..., :3].reshape(-1, 3), axis=0)) > 100
