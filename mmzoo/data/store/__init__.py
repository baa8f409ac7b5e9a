"""Prepared data on disk: where it is, what it holds, how it is split."""
