"""The JSON schema of suites says of a file what the parser says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.places import ROOT

import mmzoo
from mmzoo.config.suite_schema import param_schema, suite_schema
from mmzoo.config.suites import KEYS, read_suite
from mmzoo.errors import MmzooError
from mmzoo.io.yaml_file import parse, read
from mmzoo.registry import BUILT_IN, Catalogue, Param, built_in_path, read_entries

jsonschema = pytest.importorskip("jsonschema", reason="the check of the schema needs jsonschema")
SUITES = sorted((Path(mmzoo.__file__).parent / "benchmark" / "paper" / "suites").glob("*.yaml"))
SUITES += [p for p in sorted((ROOT / "benchmarks").glob("*.yaml")) if "\nmethod:" in p.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def known() -> Catalogue:
    return Catalogue(read_entries(built_in_path(), BUILT_IN))


@pytest.fixture(scope="module")
def validator(known: Catalogue) -> Any:
    schema = suite_schema(known, {"epochs": "how many"})
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def faults(validator: Any, data: Any) -> list[str]:
    return [e.message for e in validator.iter_errors(data)]


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.stem)
def test_every_suite_that_ships_is_valid(suite: Path, validator: Any, known: Catalogue) -> None:
    given = read(suite).data
    plugins = {m for m in given.get("baselines", []) if m.isidentifier() and not known.has("methods", m)}
    plugins |= {"openmoji"} & set(given.get("datasets", []))
    if plugins:  # a suite with methods or data sets of packages, which this catalogue does not have
        assert suite.stem in ("minis", "zoo", "tuned") and len(faults(validator, given)) >= len(plugins)
        given["baselines"] = [m for m in given["baselines"] if m not in plugins]
        given["datasets"] = ["mfeat"]
    assert faults(validator, given) == []


def test_it_has_the_keys_of_the_parser_and_says_what_they_are(validator: Any) -> None:
    assert set(validator.schema["properties"]) == KEYS
    assert validator.schema["properties"]["epochs"]["description"] == "how many"


#: what stands in a suite beside `method: ogm`, and whether it is right
LINES = {
    "epochs: 3": True,
    "epochs: 0": False,
    "epochs: null": True,
    "epoch: 3": False,
    "baselines: [pmr, ogm:0-50+pmr@sum]": True,
    "baselines: [prm]": False,
    "baselines: pmr": False,
    "heads: [sum]": True,
    "heads: [summ]": False,
    "datasets: ['mfeat:six', 'map:hard=0,content=0.6']": True,
    "datasets: [mfeats]": False,
    "seeds: 3": True,
    "seeds: [0, 4]": True,
    "seeds: 5-14": True,
    "seeds: []": False,
    "seeds: 0": False,
    "references: yes": True,
    "references: 1": False,
    "selection: last": True,
    "selection: peers": True,
    "selection: best": False,
    "preset: paper": True,
    "preset: papers": False,
    "stress: [missing]": True,
    "stress: [mist]": False,
    "tune: 5": True,
    "tune: 0": False,
    "schema: 2": False,
    "set: {ogm.alpha: 0.3}": True,
    "set: {ogm.alpha: much}": False,
    "set: {ogm.alhpa: 0.3}": False,
    "set: {omg.alpha: 0.3}": False,
    "set: {train.lr: 0.1, train.schedule: cosine}": True,
    "set: {train.schedule: cosin}": False,
    "set: {train.rate: 0.1}": False,
    "set: {mfeat.train.lr: 0.1}": True,
    "set: {mfeat.train.rate: 0.1}": False,
    "set: {encoder.fou: mlp, encoder.fou.hidden: [8]}": True,
    "set: {encoder.fou: mpl}": False,
    "set: {pmr.head.bias: false}": None,
    "set: {dynamic_gap_lb.preset: paper_like}": True,
    "set: {dynamic_gap_lb.preset: paperlike}": False,
    "overrides: [{train.lr: 0.1}, {train.lr: 0.2}]": True,
    "overrides: []": False,
    "overrides: {train.lr: 0.1}": False,
    "keep_weights: true": True,
    "out: results": False,
}


@pytest.mark.parametrize("line", LINES)
def test_it_takes_what_the_parser_takes(line: str, validator: Any, known: Catalogue, tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(f"method: ogm\n{line}\n", encoding="utf-8")
    try:
        read_suite(path, known)
        taken = True
    except MmzooError:
        taken = False
    assert LINES[line] in (taken, None)
    assert (faults(validator, read(path).data) == []) == taken


@pytest.mark.parametrize("value", ["0.5", "2", "-1", "a", "null", "true", "[1]", "[1, 9]", "[a]", "{m: 0.5}", "{m: 9}"])
@pytest.mark.parametrize("kind", ["float", "int", "bool?", "str?", "ints", "ints?", "strs", "numbers"])
def test_a_parameter_takes_what_its_check_takes(kind: str, value: str) -> None:
    limits = (0, 5) if kind.startswith(("float", "int", "numbers")) else None
    param, given = Param("p", kind, None, range=limits), parse(value, "").data
    try:
        param.check(given)
        taken = True
    except MmzooError:
        taken = False
    assert jsonschema.Draft202012Validator(param_schema(param)).is_valid(given) == taken


def test_a_parameter_lists_its_choices() -> None:
    assert param_schema(Param("p", "str?", None, choices=("a", "b")))["anyOf"][0] == {"enum": ["a", "b"]}
