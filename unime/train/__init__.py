"""Training: the plan of a batch, the cached step, and the stages `distill` and `contrast`."""
