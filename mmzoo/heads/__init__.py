"""One file each; the catalogue (registry.yaml) is the list."""
