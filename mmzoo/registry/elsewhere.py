"""Names of the packages beside mmzoo in its source tree, so that a name which is not installed says where it is.

A test compares the list with the registries of the packages.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from mmzoo.errors import nearest

#: package -> kind -> names and aliases, separated by spaces. The strategies of these packages are called like their methods.
PACKAGES: Mapping[str, Mapping[str, str]] = {
    "mmzoo-dropout": {"methods": "modality_dropout"},
    "mmzoo-heads": {
        "methods": "bilinear bottleneck cross_attention lmf low_rank mbt tensor_fusion tfn",
        "heads": "bilinear bottleneck cross_attention low_rank tensor_fusion",
    },
    "mmzoo-later": {
        "methods": "amss amss_plus aug aug_released cml inforeg inforeg_released mmcosine mmpareto modality_valuation "
        "modality_valuation_level opm reconboost reconboost_released relearning",
        "heads": "mmcosine",
    },
    "mmzoo-newer": {
        "methods": "amco arl arl_many arl_released bss bss_sampling cggm cggm_released dgl g2d g2d_released igm mbsd "
        "mbsd_repaired mcr mcr_independent mlb remix",
    },
    "mmzoo-openmoji": {"datasets": "emoji_pair openmoji"},
}


def hint(kind: str, name: str, known: Iterable[str]) -> str:
    """Sentences on a name that nothing installed has: the package that has it, else the closest name; or nothing.

    Args:
        kind: of the name, as in a registry.
        name: as it was given; `PACKAGE/NAME` means the name.
        known: the names that are installed.
    """
    installed, places = {*known}, _places(kind)
    bare = name.rpartition("/")[2].lower()
    if bare in places and bare not in installed:
        return f" {_told(places[bare])}"
    near, far = nearest(name, installed), nearest(name, places)
    if far is not None and far not in installed and (near is None or _likeness(name, far) > _likeness(name, near)):
        return f" Did you mean {far!r}? {_told(places[far])}"
    return "" if near is None else f" Did you mean {near!r}?"


def _told(package: str) -> str:
    return f"It is in the package {package} (pip install ./plugins/{package})."


def _likeness(given: str, name: str) -> float:
    return difflib.SequenceMatcher(None, name.lower(), given[:200].lower()).ratio()


def _places(kind: str) -> dict[str, str]:
    """Name -> package, of a kind."""
    kind = "methods" if kind == "strategies" else kind
    return {name: package for package, kinds in PACKAGES.items() for name in kinds.get(kind, "").split()}
