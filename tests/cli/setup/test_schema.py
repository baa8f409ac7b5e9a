"""`mmzoo schema`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def test_the_schema_is_printed_with_what_the_options_say(mmzoo: Callable[..., Any]) -> None:
    done = mmzoo("schema")
    schema = json.loads(done.out)
    assert done.code == 0 and schema["additionalProperties"] is False
    assert "ogm" in schema["properties"]["method"]["anyOf"][0]["enum"]
    told = {key for key, form in schema["properties"].items() if "description" in form}
    assert {"method", "baselines", "datasets", "seeds", "set", "stress", "selection", "epochs"} <= told
    alpha = schema["$defs"]["settings"]["properties"]["ogm.alpha"]
    assert alpha["type"] == "number" and alpha["description"] and alpha["default"] > 0
