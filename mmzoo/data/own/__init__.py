"""A user's own data: a YAML manifest and a table."""
