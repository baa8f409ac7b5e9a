"""A data set as published: its items, fields, and the faults found in them."""
