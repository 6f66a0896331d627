"""Signals to a command are not lost, wherever they come."""

import gc
import os
import signal
import sys
import time
import weakref

import pytest

from v2meow_jax import stopping, terminal
from v2meow_jax.training.signals import Signals

STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.fixture(autouse=True)
def default_handlers():
  """As a shell's foreground has them."""
  before = {number: signal.signal(number, signal.default_int_handler) for number in STATUS}
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


def wait():
  until = time.monotonic() + 5
  while time.monotonic() < until:
    time.sleep(0.01)


@pytest.mark.parametrize('number', STATUS)
def test_a_signal_ends_a_command(number, capsys):
  def main(argv):
    os.kill(os.getpid(), number)
    wait()

  assert terminal.run(main, []) == STATUS[number]
  assert not stopping.came()
  capsys.readouterr()


class Thing:
  """Does `work` when it is collected."""

  def __init__(self, work):
    self.work = work

  def __del__(self):
    self.work()


def amid_a_callback(work):
  def callback(phase, info):
    if phase == 'start':
      work()

  gc.callbacks.append(callback)
  gc.collect()
  gc.callbacks.remove(callback)


def amid_a_finalizer(work):
  Thing(work)


def amid_a_weak_reference(work):
  thing = set()
  reference = weakref.ref(thing, lambda _: work())
  del thing
  assert reference() is None


def amid_a_generator(work):
  def numbers():
    try:
      yield 1
    finally:
      work()

  next(numbers())


@pytest.mark.parametrize('number', STATUS)
@pytest.mark.parametrize('amid', [amid_a_callback, amid_a_finalizer, amid_a_weak_reference, amid_a_generator])
def test_a_signal_of_which_python_says_that_it_is_ignored_comes_again(number, amid, capsys):
  def signal_once():
    if not sent:
      sent.append(number)
      os.kill(os.getpid(), number)
      time.sleep(0.01)

  def main(argv):
    amid(signal_once)
    wait()

  sent: list[int] = []
  assert terminal.run(main, []) == STATUS[number]
  assert sent
  capsys.readouterr()


def test_other_ignored_exceptions_are_told_as_before(monkeypatch):
  told = []
  monkeypatch.setattr(sys, 'unraisablehook', lambda unraisable: told.append(unraisable.exc_type))

  def main(argv):
    amid_a_finalizer(lambda: 1 / 0)

  assert terminal.run(main, []) == 0
  assert told == [ZeroDivisionError]


def test_training_that_begins_after_a_signal_stops_at_once(monkeypatch):
  with Signals() as signals:
    assert not signals.stop
  monkeypatch.setattr(stopping, '_came', True)
  with Signals() as signals:
    assert signals.stop
    signal.raise_signal(signal.SIGINT)  # the same one, which came again
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)


def test_what_ignores_sigint_goes_on_ignoring_it(capsys):
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def main(argv):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)

  assert terminal.run(main, []) == 0
