"""The bench: plan, runner, store, report."""
