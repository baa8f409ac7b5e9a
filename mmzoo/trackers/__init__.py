"""Adapters to experiment trackers."""
