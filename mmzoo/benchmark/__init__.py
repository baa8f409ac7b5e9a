"""The benchmark runner: plan runs, execute them, store their results, report them."""
