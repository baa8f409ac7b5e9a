"""Tables, statistics and figures from finished runs."""
