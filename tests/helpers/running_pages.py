"""The code of a page as a program: its blocks in their order, in one folder, made short; and what is not run, with the reason."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from helpers.pages import shell_commands
from helpers.places import ROOT
from mmzoo.benchmark.scheduling.launchers import LAUNCHERS
from mmzoo.cli import build_parser, main
from mmzoo.config.suite_schema import suite_schema
from mmzoo.registry import read_entries
from mmzoo.registry.plugins import catalogue

#: the data sets whose published files nobody has here: their benches are planned on the synthetic ones
PUBLISHED = {"cremad", "kinetics_sounds", "sarcasm", "twitter2015", "nvgesture"}
#: the first words of commands of mmzoo that are parsed and not run -> why
PARSED = {
    "data prepare": "needs the published files; tests/data/preparing prepares others",
    "data mini": "takes seconds; tests/data/synthetic runs it",
    "data check cremad": "needs the published files; tests/data/preparing checks others",
    "reproduce": "trains on all data sets; tests/benchmark/paper runs its parts",
    "gradcam": "needs a trained model of pictures; tests/evaluation/test_gradcam.py has one",
    "docs --build": "tests/cli/site/test_build.py builds the site",
}
#: programs that are no part of mmzoo -> why they are not run
PROGRAMS = {
    "pip": "installs from an index; the extras and folders that it names are checked to exist",
    "python": "runs the tests of the project or of a package; the module that it names is checked to exist",
    "git": "needs a fork",
    "pre-commit": "changes the checkout; .pre-commit-config.yaml is checked to exist",
    "torchrun": "starts processes, as tests of distributed training do; what it starts is planned",
}
SHORT = ("--seeds", "1", "--epochs", "1", "--no-references")
#: in Python blocks: text -> its short form
SHORTER = {
    "seeds=5,": "seeds=1, epochs=1, references=False,",
    "check_strategy(Agree)": "check_strategy(Agree, only=['check_neutral'])",
}


class Todo(NamedTuple):
    """A command of a page: its words, what is run of it (None: nothing), and why not all."""

    words: list[str]
    run: list[str] | None
    reason: str = ""


def todo(words: list[str], packages: frozenset[str] = frozenset()) -> Todo:
    """What is run of a command. packages: names that an earlier `mmzoo new` of the page made. Raises AssertionError for a
    program that nobody has thought of."""
    if words[0] == "torchrun":
        return todo(words[words.index("mmzoo") :])._replace(words=words, reason=PROGRAMS["torchrun"])
    if words[0] != "mmzoo":
        assert words[0] in PROGRAMS, f"no check for {' '.join(words)}"
        return Todo(words, None, PROGRAMS[words[0]])
    given = " ".join(words[1:])
    for start, reason in PARSED.items():
        if given.startswith(start):
            return Todo(words, None, reason)
    if packages & set(words):
        return Todo(words, None, "needs the new package installed; tests/scaffold/test_new.py does that")
    if words[1] == "check":
        return Todo(words, [*words[1:], "--only", "neutral"])
    return _bench(words) if words[1] in ("bench", "tune") else Todo(words, words[1:])


def _bench(words: list[str]) -> Todo:
    run = [w for word in words[1:] for w in (["--method", "ogm", "--datasets", "mfeat"] if word == "..." else [word])]
    named = run[run.index("--datasets") + 1].split(",") if "--datasets" in run else []
    if PUBLISHED & set(named):
        run = _without_launcher(run)
        run[run.index("--datasets") + 1] = ",".join(f"{d}:mini" if d in PUBLISHED else d for d in named)
        return Todo(words, [*run, "--plan"], "planned, on the synthetic sets: the published files are not here")
    if "--launcher" in run:
        return Todo(words, [*_without_launcher(run), "--plan"], "planned without its launcher, which needs a cluster")
    if run[0] == "tune":
        return Todo(words, [*run, "--trials", "1", "--epochs", "1"])
    if "--plan" in run:
        return Todo(words, run)
    short = [*SHORT, "--workers", "1", *(["--datasets", named[0]] if named else [])]
    return Todo(words, [*run, *short, *(["--tune", "1"] if "--tune" in run else [])])


def _without_launcher(run: list[str]) -> list[str]:
    """The command without --launcher, which must be one of mmzoo's, and its options."""
    at = [i for i, word in enumerate(run) if word in ("--launcher", "--launcher-arg")]
    assert all(run[i + 1] in LAUNCHERS for i in at if run[i] == "--launcher")
    return [word for i, word in enumerate(run) if i not in at and i - 1 not in at]


def todos(text: str) -> Iterator[Todo]:
    """Every command of the bash blocks of a page."""
    made: set[str] = set()
    for words in shell_commands(text):
        found = todo(words, frozenset(made))
        if found.words[:2] == ["mmzoo", "new"]:
            made.add(found.words[-1])
        yield found


class Page:
    """A page that is run in a folder, which must be the current one."""

    def __init__(self, text: str, folder: Path, names: dict[str, Any]) -> None:
        self.text, self.folder, self.names = text, folder, names
        self.parser = build_parser()
        self._made: set[str] = set()

    def run(self) -> dict[str, int]:
        """Run every block in order. Returns how many there were of each language. Raises AssertionError."""
        counts: dict[str, int] = {}
        for language, block in re.findall(r"^```(\S*)\n(.*?)^```", self.text, re.DOTALL | re.MULTILINE):
            counts[language] = counts.get(language, 0) + 1
            how = getattr(self, f"_{language or 'unnamed'}", None)
            assert how is not None, f"a block of {language or 'no language'} that nobody checks:\n{block}"
            how(block)
        return counts

    # ------------------------------------------------------------------ languages
    def _text(self, block: str) -> None:
        """A formula or an output."""

    def _mermaid(self, block: str) -> None:
        """The picture of the folders, which tests/architecture/test_contributing.py compares with the imports."""

    def _python(self, block: str) -> None:
        for long, short in SHORTER.items():
            block = block.replace(long, short)
        if '"results/runs/RUN_ID"' in block:
            block = block.replace("RUN_ID", self._kept())
        name = _named(block, "py") or "block.py"
        (self.folder / name).write_text(block, encoding="utf-8")
        before = {*sys.modules}
        sys.path.insert(0, str(self.folder))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block, name, "exec"), {"__name__": "page", **self.names})
        finally:
            sys.path.remove(str(self.folder))
            for module in {*sys.modules} - before:
                if str(getattr(sys.modules[module], "__file__", "")).startswith(str(self.folder)):
                    del sys.modules[module]

    def _yaml(self, block: str) -> None:
        if name := _named(block, "yaml"):
            (self.folder / name).write_text(block, encoding="utf-8")
            return
        path = self.folder / "block.yaml"
        path.write_text(block, encoding="utf-8")
        given = yaml.safe_load(block)
        if "method" in given:
            _fits_schema(given)
            self._call(["bench", "--suite", str(path), "--plan"])
        elif "mini" in given:
            path.write_text(_data_set_with(block), encoding="utf-8")
            assert [e.extra["mini"] for e in read_entries(path, "my_package")] == [given["mini"]]
        else:
            assert {e.name for e in read_entries(path, "my_package")} == {n for kind in given.values() for n in kind}

    def _csv(self, block: str) -> None:
        """The table of the page's manifest, with more rows like those shown, and new.csv without labels."""
        from PIL import Image

        header, *shown = csv.reader(block.splitlines())
        rows = [dict(zip(header, shown[i % len(shown)])) for i in range(40)]
        for i, row in enumerate(rows):
            row |= {"id": f"a{i}", "group": f"owner{i}", "split": "test" if i % 8 < 2 else "train"}
            picture = self.folder / row["picture"]
            picture.parent.mkdir(exist_ok=True)
            Image.new("RGB", (16, 16), (i % 2 * 200, i, 90)).save(picture)
        for name, columns in (("items.csv", header), ("new.csv", [c for c in header if c != "label"])):
            with (self.folder / name).open("w", newline="") as file:
                table = csv.DictWriter(file, columns, extrasaction="ignore")
                table.writeheader()
                table.writerows(rows)

    def _bash(self, block: str) -> None:
        for words in shell_commands(f"```bash\n{block}```"):
            found = todo(words, frozenset(self._made))
            if words[:2] == ["mmzoo", "new"]:
                self._made.add(words[-1])
            if words[0] == "mmzoo":
                self._parse([w for w in words[1:] if w != "..."])
            else:
                _exists(words, self._made)
            if found.run is not None:
                self._call(self._filled(found.run))

    # ------------------------------------------------------------------ commands
    def _parse(self, words: list[str]) -> None:
        with contextlib.redirect_stderr(io.StringIO()) as told:
            try:
                assert self.parser.parse_args(words).command
            except SystemExit as leave:
                raise AssertionError(f"mmzoo {' '.join(words)}:\n{told.getvalue()}") from leave

    def _call(self, words: list[str]) -> None:
        told, printed = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(printed):
            code = main(words)
        assert code == 0, f"mmzoo {' '.join(words)}:\n{told.getvalue()}{printed.getvalue()}"

    def _filled(self, words: list[str]) -> list[str]:
        """The command with names in place of DIR, FOLDER and RUN_ID; the results that it reads are there."""
        words = [{"DIR": "results", "FOLDER": "figures"}.get(w, w) for w in words]
        reads = words[0] in ("report", "status", "runs", "compare")
        if reads and not (self.folder / "results").is_dir():
            self._call(["bench", "--method", "ogm", "--baselines", "pmr", *SHORT, "--out", "results"])
        if "RUN_ID" in words:
            words[words.index("RUN_ID")] = self._kept()
        return words

    def _kept(self) -> str:
        """The id of a run of the page that kept its weights."""
        runs = (self.folder / "results/runs").iterdir()
        return next(p for p in runs if (p / "weights.safetensors").is_file()).name


# ---------------------------------------------------------------------- checks of what is not run
def _exists(words: list[str], made: set[str]) -> None:
    """The extras, folders and modules that a command names are there."""
    if words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
        for word in (w for w in words[2:] if not w.startswith("-")):
            path, _, named = word.partition("[")
            assert set(filter(None, named.rstrip("]").split(","))) <= set(extras), f"{word}: no such extra"
            new = path.removeprefix("./").replace("-", "_") in made
            assert path == "mmzoo" or new or any(ROOT.glob(path.removeprefix("./").removeprefix(".") or "*")), (
                f"{word}: no such folder"
            )
    elif words[0] == "python":
        assert words[1] == "-m" and importlib.util.find_spec(words[2]) is not None, " ".join(words)
    elif words[0] == "pre-commit":
        assert (ROOT / ".pre-commit-config.yaml").is_file()


def _fits_schema(suite: Any) -> None:
    import jsonschema

    jsonschema.validate(suite, suite_schema(catalogue()))


def _named(block: str, suffix: str) -> str | None:
    found = re.match(rf"# (\w+\.{suffix})\b", block)
    return found and found[1]


def _data_set_with(mini: str) -> str:
    """A registry file with a data set that has these lines."""
    head = "datasets:\n  mine:\n    path: mypackage.data:Mine\n    summary: S.\n    modalities: {image: image, text: text}\n"
    rest = "    n_classes: 2\n    encoders: {image: {name: cnn}, text: {name: text_words}}\n    training: {default: {lr: 0.1}}\n"
    return head + rest + "".join(f"    {line}\n" for line in mini.splitlines())
