"""From a benchmark specification to a list of runs."""
