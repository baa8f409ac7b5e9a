"""One training run: its configuration, the strategy and its hooks, the pass over a batch, the loop over epochs."""
