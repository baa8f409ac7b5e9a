"""Which parameters a bilevel solve covers, by name. No torch at import: the catalogue validates scopes here too."""

from __future__ import annotations

import re

from mmzoo.errors import BadValue, short

_HEADS = r"^(head|extra)\."
#: scopes that have a name of their own, and the expression that finds their parameters' names
NAMED = {"all": "", "heads": _HEADS, "last": _HEADS}
ACCEPTED = "'all', 'heads', 'last' or 'pattern:REGEX'"


def scope_pattern(scope: str) -> re.Pattern[str]:
    """The regular expression that selects a scope's parameters by name; of its matches "last" uses only some.

    Args:
        scope: "all", "heads", "last" or "pattern:REGEX".

    Raises:
        BadValue: the scope is malformed.
    """
    kind, _, given = scope.partition(":")
    if scope not in NAMED and (kind != "pattern" or not given):
        raise BadValue(f"scope must be {ACCEPTED}, not {short(scope)}.")
    try:
        return re.compile(NAMED.get(kind, given))
    except re.error as error:
        raise BadValue(f"scope {short(scope)} is not a regular expression: {error}.") from error
