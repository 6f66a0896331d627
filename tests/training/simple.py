"""What the loop asks of anything trainable, for tests whose models have no layers."""


class Simple:
  """One layout, no microbatches, one token an example."""

  layout = 'unrolled'
  microbatches = 1

  def with_layout(self, layout):
    assert layout == 'unrolled'
    return self

  def relayout(self, tree, layout):
    assert layout == 'unrolled'
    return tree

  def tokens(self, batch):
    return len(next(iter(batch.values())).shape)

  def flops(self, batch):
    return None
