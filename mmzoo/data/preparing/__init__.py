"""Turn a source into a store: read, decode, check, write."""
