"""The catalogue: what exists, read from registry.yaml files. Importing and reading it imports no torch."""

from mmzoo.catalogue.catalogue import Catalogue
from mmzoo.catalogue.entry import BUILT_IN, KINDS, SINGULAR, Entry
from mmzoo.catalogue.param import ENCODER_OPTIONS, Param, Search
from mmzoo.catalogue.reading import built_in_path, read_entries

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
