"""Adapters to other people's experiment trackers."""
