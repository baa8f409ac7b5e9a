"""The packages that `mmzoo new` writes."""
