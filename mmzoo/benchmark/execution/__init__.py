"""One planned run: build, train, score, and keep its results."""
