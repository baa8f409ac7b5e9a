"""Which process executes which run: the worker loop, launchers, progress."""
