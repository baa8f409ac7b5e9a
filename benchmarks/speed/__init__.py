"""How fast mmzoo is, as ratios of processor time within one run: `python -m benchmarks.speed`."""
