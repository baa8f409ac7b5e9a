"""Data sets: modules with fixed splits, and loaders."""
