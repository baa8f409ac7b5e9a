"""Scores of a trained model: predictions, metrics, ablations, contributions, probes, complexity."""
