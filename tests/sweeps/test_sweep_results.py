"""From files of runs and reports to the table, against numbers written out by hand."""

import csv
import html.parser
import io
import itertools
import json
import math
import re
import xml.etree.ElementTree

import pytest
from scipy import stats

from v2meow_jax.sweeps import curves, page, results, state, table
from v2meow_jax.sweeps.axes import Axis
from v2meow_jax.sweeps.reading import Size
from v2meow_jax.sweeps.running import Runner
from v2meow_jax.sweeps.state import State
from v2meow_jax.sweeps.statistics import Estimate
from v2meow_jax.sweeps.sweep import Step, Sweep, Train
from v2meow_jax.sweeps.trials import Trial, Work

TRAIN = Train('stage', ('r.gin',), dataset='ds')
AXIS = Axis('layers', 'L', (1, 2))
FINAL = {(1, 0): 3.0, (1, 1): 5.0, (1, 2): 4.0, (2, 0): 2.5, (2, 1): 4.6, (2, 2): 3.4}


def rows(*values, split='validation'):
  return ''.join(
    json.dumps({'step': 10 * n, 'split': split, 'time': 0, 'loss': v}) + '\n' for n, v in enumerate(values, 1)
  )


@pytest.fixture
def made(tmp_path):
  """Two combinations with three seeds, the last run of which diverges on the way."""
  found = []
  runner = Runner(tmp_path, None, say=lambda text: None)
  for choice in AXIS.choices:
    for seed in (0, 1, 2):
      one = Work(
        TRAIN, f'{choice.label}{seed}', f'layers={choice.label}', {}, {},
        measure=lambda n=choice.value: Size(n * 10**6, 1e9 * n, 100, 30),
      )  # fmt: skip
      run = one.output(tmp_path)
      run.mkdir(parents=True)
      best = FINAL[choice.value, seed] - 0.5
      text = rows(9.0, split='train') + rows(7.0, best, FINAL[choice.value, seed]) + 'half a li'
      (run / 'metrics.jsonl').write_text(text)
      runner.states[one.signature] = State('done', seconds=60.0 + seed)
      found.append(Trial({'layers': choice}, seed, {'stage': one}))
  return Sweep((TRAIN,), (AXIS,), seeds=(0, 1, 2)), found, runner


def test_means_best_values_and_paired_differences(made):
  found = results.collect(*made, 'a title')
  assert list(found.metrics.items()) == [('stage/validation/loss', False)]
  base, other = found.rows
  cell = base.cells['stage/validation/loss']
  assert base.baseline and cell.difference is None
  assert (cell.final.value, cell.best.value) == (4.0, 3.5)
  interval = stats.ttest_1samp([3.0, 5.0, 4.0], 0).confidence_interval()
  assert (cell.final.low, cell.final.high) == pytest.approx((interval.low, interval.high))
  cell = other.cells['stage/validation/loss']
  wanted = stats.ttest_rel([2.5, 4.6, 3.4], [3.0, 5.0, 4.0])
  interval = wanted.confidence_interval()
  assert cell.difference.value == pytest.approx(-0.5)
  assert (cell.difference.low, cell.difference.high) == pytest.approx((interval.low, interval.high))
  assert cell.difference.apart == (wanted.pvalue < 0.05)
  assert (other.parameters, other.flops, other.seconds, other.steps) == (2 * 10**6, 6e10, 61.0, 30)
  assert base.curves['stage/validation/loss'][0] == ((10, 7.0), (20, 2.5), (30, 3.0))


def test_csv_holds_the_numbers_and_the_others_are_made_of_them(made):
  found = results.collect(*made, 'a title')
  lines = list(csv.DictReader(io.StringIO(table.as_csv(found))))
  assert [line['layers'] for line in lines] == ['1', '2']
  assert float(lines[1]['stage/validation/loss:difference']) == pytest.approx(-0.5)
  assert lines[0]['stage/validation/loss:difference'] == '' and lines[0]['status'] == 'done'
  text = table.markdown(found)
  widths = {line.count('|') for line in text.splitlines() if line.startswith('|')}
  assert len(widths) == 1 and '-0.50 ± 0.25' in text and "Student's t" in text
  tex = table.latex(found)
  assert r'\begin{tabular}{llrrrrrrr}' in tex and tex.count('&') % 8 == 0
  assert r'-0.50 $\pm$ 0.25' in tex and not re.search(r'(?<!\\)[%_](?! )', tex.split('\n', 1)[1])


def test_the_page_is_whole_and_needs_nothing_beside_it(made):
  sweep, found, runner = made
  runner.states['20'] = State('failed', words='<b>it & that', status=1)
  text = page.page(results.collect(sweep, found, runner, 'a <title>', ['stage/layers=2']))
  assert 'http-equiv="refresh"' in text and 'src=' not in text and 'href=' not in text
  assert '&lt;b&gt;it &amp; that' in text and 'a &lt;title&gt;' in text

  class Balance(html.parser.HTMLParser):
    def __init__(self):
      super().__init__()
      self.open = []

    def handle_starttag(self, tag, attributes):
      if tag not in ('meta', 'br', 'line', 'circle', 'polyline'):
        self.open.append(tag)

    def handle_endtag(self, tag):
      if tag not in ('line', 'circle', 'polyline'):
        assert self.open.pop() == tag

  parser = Balance()
  parser.feed(text)
  assert parser.open == []
  pictures = re.findall(r'<svg.*?</svg>', text, re.DOTALL)
  lines = xml.etree.ElementTree.fromstring(pictures[0]).findall('.//polyline')
  assert len(lines) == 2 * (3 + 1)  # three seeds and their mean, twice
  final = page.page(results.collect(sweep, found, runner, 't'))
  assert 'refresh' not in final


def test_a_mean_is_drawn_where_all_seeds_are_and_outliers_do_not_press_the_rest_together():
  drawn = curves.svg({0: {0: [(0, 1000.0), (10, 3.0), (20, 2.0)], 1: [(0, 4.0), (10, 5.0)]}}, ['a'], 'loss')
  lines = xml.etree.ElementTree.fromstring(drawn).findall('.//polyline')
  assert [len(line.get('points').split()) for line in lines] == [3, 2, 2]
  ys = [float(point.split(',')[1]) for point in lines[0].get('points').split()]
  assert ys[2] - ys[1] > 10  # pixels between 3 and 2, although the first value was 1,000
  assert curves.svg({0: {0: [(0, math.nan)]}}, ['a'], 'loss') == ''


@pytest.mark.parametrize('span', [(0, 1), (2.31, 5.7), (-3, 4e6), (1e-5, 3e-5)])
def test_ticks_are_round_and_within(span):
  found = curves.ticks(*span)
  assert 3 <= len(found) <= 11 and span[0] - 1e-9 <= found[0] and found[-1] <= span[1] * (1 + 1e-9)
  steps = {float(f'{b - a:.3g}') for a, b in itertools.pairwise(found)}
  assert len(steps) == 1 and f'{steps.pop():e}'[0] in '125'


def test_of_an_evaluations_folder_its_metrics_are_read(tmp_path):
  work = Work(Step('evaluation', 'evaluate', out='evaluation'), 's', 'all', {}, {})
  folder = work.output(tmp_path)
  folder.mkdir(parents=True)
  assert results.of_work(work, tmp_path) == {}
  metrics = {'coarse/nats_a_token': {'value': 2.0, 'interval': [1.0, 3.0], 'better': 'lower'}}
  (folder / 'report.json').write_text(json.dumps({'metrics': metrics, 'codec': {'log_mel': 1}}))
  found = results.of_work(work, tmp_path)
  assert {name: value.final for name, value in found.items()} == {'evaluation/coarse/nats_a_token': 2.0}


def test_reports_are_read_by_place_with_their_intervals(tmp_path):
  path = tmp_path / 'evaluation.json'
  path.write_text(json.dumps({
    'bundle': 'x', 'stages': {'fine': {'validation': {'loss': 2.0}, 'levels': [1, 2]}}, 'whole': True,
    'fad': {'value': 3.5, 'interval': [3.0, 4.0], 'better': 'lower', 'count': 9},
    'beats': {'value': 0.4, 'interval': [None, None], 'better': 'higher'},
  }))  # fmt: skip
  found = results.of_report(path)
  assert {name: value.final for name, value in found.items()} == {
    'stages/fine/validation/loss': 2.0, 'fad': 3.5, 'beats': 0.4,
  }  # fmt: skip
  assert found['fad'].interval == (3.0, 4.0) and found['beats'].interval is None
  # In a table: the interval of the report where there is one seed, and what is better as it says.
  step = Step('evaluation', 'evaluate', out='evaluation.json')
  work = Work(step, 's', 'all', {}, {})
  work.folder(tmp_path).mkdir(parents=True)
  path.rename(work.output(tmp_path))
  sweep = Sweep((step,), metrics=('evaluation/fad', 'evaluation/beats'))
  runner = Runner(tmp_path, None, say=lambda text: None)
  made = results.collect(sweep, [Trial({}, 0, {'evaluation': work})], runner, 't')
  assert made.metrics == {'evaluation/fad': False, 'evaluation/beats': True}
  assert made.rows[0].cells['evaluation/fad'].final == Estimate(3.5, 3.0, 4.0, 1)
  assert 'that of the report' in table.markdown(made)


@pytest.mark.parametrize('text', ['', '{', '[1', '\x00', '"a"', '3'])
def test_damaged_reports_and_metrics_have_no_numbers(tmp_path, text):
  path = tmp_path / 'evaluation.json'
  path.write_text(text)
  assert set(results.of_report(path)) <= {''}
  (tmp_path / 'metrics.jsonl').write_text(text)
  assert results.of_run(tmp_path) == {}
  assert results.of_run(tmp_path / 'none') == {}
  assert state.last_words(tmp_path) == ''


@pytest.mark.parametrize(
  ('given', 'told'),
  [
    (Estimate(2.18734, 2.15734, 2.21734, 3), '2.187 ± 0.030'),
    (Estimate(-0.5, -0.75, -0.25, 3), '-0.50 ± 0.25'),
    (Estimate(123.4, 23.4, 223.4, 3), '123 ± 100'),
    (Estimate(3.5, 3.0, 5.0, 1), '3.5 (3 to 5)'),
    (Estimate(3.14159, None, None, 1), '3.142'),
    (Estimate(math.nan, None, None, 1), 'not finite'),
    (Estimate(2.0, 2.0, 2.0, 2), '2.0000 ± 0.0000'),
  ],
)
def test_numbers_are_told_with_the_digits_that_they_have(given, told):
  assert table.estimate(given) == told
