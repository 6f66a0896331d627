"""Clips become records on a Ray cluster: CPU actors read and decode, others encode on its devices and write.

Ray Data moves parts from the first to the second and holds the first back where the second is slower. A part
whose worker dies is made by another. The dataset's directory is one that all machines see. The driver of Ray
is a process of its own, for Ray ends it where the cluster is gone.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import pickle
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from v2meow_jax import errors, runtime, terminal, workers
from v2meow_jax.data import engines
from v2meow_jax.data import parts as parts_lib
from v2meow_jax.data.engines import Done, Job, Reader, Writer
from v2meow_jax.encoders.base import Encoder

LOCAL = 'local'
MOST_BYTES = 2**30  # of a part that is passed on; what has more is read where it is encoded
DEVICES = ('GPU', 'TPU')


def on_ray(
  directory: epath.PathLike,
  encoders: Sequence[Encoder],
  jobs: Sequence[Job],
  *,
  address: str = LOCAL,
  processes: int = 2,
) -> Iterator[Done]:
  """What each job gives, as they are done; the records are those of `engines.local`.

  Args:
    directory: of the dataset, the same on all machines.
    encoders: one a stream.
    jobs: parts and the streams that are to be made of each.
    address: of a running cluster, or `local`: one is begun here.
    processes: cores of a cluster that is begun here.

  Raises:
    errors.ConfigError: Ray is not installed, there is no cluster, or it went away.
  """
  if importlib.util.find_spec('ray') is None:
    raise errors.ConfigError('--ray needs Ray; install v2meow-jax with the extra "ray"')
  if not jobs:
    return
  context = multiprocessing.get_context('spawn')
  mine, its = context.Pipe(duplex=False)
  driver = context.Process(
    target=_drive, args=(its, os.fspath(directory), list(encoders), list(jobs), address, processes)
  )
  driver.start()
  its.close()
  try:
    while True:
      try:
        kind, told = mine.recv()
      except (EOFError, ConnectionResetError) as error:
        raise errors.ConfigError(
          f'--ray={address}: the cluster went away; run the same command again, what is done stays done'
        ) from error
      if kind == 'end':
        return
      if kind == 'failed':
        raise told
      yield told
  except BaseException:
    driver.terminate()
    raise
  finally:
    mine.close()
    driver.join(20)
    if driver.is_alive():
      driver.terminate()
      driver.join()


def _drive(
  pipe: Any, directory: str, encoders: list[Encoder], jobs: list[Job], address: str, processes: int
) -> None:
  """The driver: connects, runs the jobs and tells of each."""
  terminal.hush()
  workers.end_with_parent()
  os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
  # Of a cluster begun here: its workers are what this machine is to do, and not in the background.
  os.environ.setdefault('RAY_worker_niceness', '0')
  try:
    with terminal.hushed():
      for done in _run(directory, encoders, jobs, address, processes):
        pipe.send(('done', done))
    pipe.send(('end', None))
  except Exception as error:
    with contextlib.suppress(OSError):  # the parent is gone
      pipe.send(('failed', _told(error, address)))
  finally:
    pipe.close()


def _told(error: BaseException, address: str) -> Exception:
  """What the command says of an exception of Ray's, or of ours inside of one."""
  inner: BaseException | None = error
  while inner is not None:
    if isinstance(inner, errors.InputError):
      return type(inner)(str(inner))
    inner = getattr(inner, 'cause', None) or inner.__cause__
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return errors.ConfigError(
    f'--ray={address}: {" ".join(lines[0].split())[:200]}; check the cluster and run the same command again, '
    'what is done stays done'
  )


def _reach(address: str) -> None:
  """Connects to the head of a cluster, where the address names one: Ray itself tries for many minutes.

  Raises:
    OSError: nobody answers.
  """
  host, _, port = address.removeprefix('ray://').rpartition(':')
  if host and port.isdecimal():
    socket.create_connection((host, int(port)), timeout=30).close()


def _run(
  directory: str, encoders: list[Encoder], jobs: list[Job], address: str, processes: int
) -> Iterator[Done]:
  import logging

  import ray
  import ray.data

  local = address == LOCAL
  try:
    _reach(address)
    ray.init(
      address=address,
      num_cpus=max(2, processes) if local else None,
      include_dashboard=False if local else None,
      log_to_driver=False,
      logging_level=logging.ERROR,
    )
  except (OSError, RuntimeError, ValueError, AssertionError) as error:
    raise errors.ConfigError(f'--ray={address}: there is no such cluster; begin one by ray start') from error
  try:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    reading, encoding = _shares(ray.cluster_resources())
    given = (directory, ray.put(encoders))  # held here, so that workers that begin anew find them

    def pool(options: dict[str, Any], size: int) -> dict[str, Any]:
      strategy = ray.data.ActorPoolStrategy(size=size)
      return {'fn_constructor_args': given, 'compute': strategy, **options}

    rows = ray.data.from_items([{'job': pickle.dumps(job)} for job in jobs], override_num_blocks=len(jobs))
    read: Any = _ReadStage  # classes, of which Ray makes actors
    write: Any = _WriteStage
    rows = rows.map(read, **pool(*reading)).map(write, **pool(*encoding))
    for row in rows.iter_rows():
      yield pickle.loads(row['done'])
  finally:
    ray.shutdown()


Stage = tuple[dict[str, Any], int]


def _shares(resources: Mapping[str, float]) -> tuple[Stage, Stage]:
  """(what an actor needs, how many there are) of both stages: one encodes a device, or a quarter of cores.

  Args:
    resources: that a cluster has.
  """
  cores = max(2, int(resources.get('CPU', 2)))
  for device in DEVICES:
    count = int(resources.get(device, 0))
    if count:
      asked = {'num_gpus': 1} if device == 'GPU' else {'resources': {device: 1}}
      return ({'num_cpus': 1}, max(1, cores - count)), (asked, count)
  encoding = max(1, cores // 4)
  return ({'num_cpus': 1}, cores - encoding), ({'num_cpus': 1}, encoding)


class _ReadStage:
  """An actor that reads parts."""

  def __init__(self, directory: str, encoders: Any):
    import jax
    import ray

    terminal.hush()
    workers.be_worker()
    jax.config.update('jax_platforms', 'cpu')
    self._encoders = ray.get(encoders)
    self._reader = Reader(directory, self._encoders)
    self._directory = directory

  def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
    job: Job = pickle.loads(row['job'])
    size = engines.bytes_of(self._directory, self._encoders, job)
    read = pickle.dumps(self._reader.read(job), protocol=5) if size <= MOST_BYTES else b''
    return {'job': row['job'], 'read': read}


class _WriteStage:
  """An actor that encodes and writes parts."""

  def __init__(self, directory: str, encoders: Any):
    import ray

    terminal.hush()
    workers.be_worker()
    parts_lib.require_tensorflow()
    runtime.set_up()
    self._writer = Writer(directory, ray.get(encoders))

  def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
    job: Job = pickle.loads(row['job'])
    done = self._writer.write(job, pickle.loads(row['read'])) if row['read'] else self._writer.make(job)
    return {'done': pickle.dumps(done)}
