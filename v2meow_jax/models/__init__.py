"""Networks of the stages: attention, Transformer, conditioning, stage model; and how they are trained."""
