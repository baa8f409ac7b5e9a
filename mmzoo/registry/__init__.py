"""The catalogue: what exists, read from registry.yaml files. Importing and reading it imports no torch."""

from mmzoo.registry.catalogue import Catalogue
from mmzoo.registry.entries import BUILT_IN, KINDS, SINGULAR, Entry
from mmzoo.registry.parameters import ENCODER_OPTIONS, Param, Search
from mmzoo.registry.reading import built_in_path, read_entries

__all__ = [
    "BUILT_IN",
    "ENCODER_OPTIONS",
    "KINDS",
    "SINGULAR",
    "Catalogue",
    "Entry",
    "Param",
    "Search",
    "built_in_path",
    "read_entries",
]
