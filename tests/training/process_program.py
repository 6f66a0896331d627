"""`v2meow train` as one of several processes, which writes down which examples it reads; for test_processes.

Arguments: file for the examples, then those of `v2meow train`. A line is the example's number, its clip's
id and the start of its crop. TensorFlow is hidden: it takes seconds to import and nothing here needs it.
"""

import sys
from importlib.machinery import PathFinder

found = PathFinder.find_spec
gone = ('tensorflow', 'seqio', 'tensorflow_datasets', 'tensorboard')
PathFinder.find_spec = staticmethod(
  lambda name, *rest: None if name.partition('.')[0] in gone else found(name, *rest)
)

from v2meow_jax import cli  # noqa: E402
from v2meow_jax.data.crops import CropSource  # noqa: E402

read = CropSource.__getitem__


def reported(self, n):
  if self.dataset.clips[0].split == 'train':
    clip, start = self.place(n)
    with open(sys.argv[1], 'a') as file:
      file.write(f'{n} {self.dataset.clips[clip].id} {start}\n')
  return read(self, n)


CropSource.__getitem__ = reported
sys.exit(cli.main(['train', *sys.argv[2:]]))
