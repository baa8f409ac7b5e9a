"""YAML files with the line of every key, so that all faults of a file can be named at once. No torch at import."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmzoo.errors import BadValue
from mmzoo.io.regular import read_regular

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is about seven times faster
Key = tuple[Any, ...]
#: bytes of the largest file, and values that its aliases may make of it
LARGEST, MOST_VALUES = 1 << 26, 5_000_000
#: digits of the longest number
MOST_DIGITS = 400


class TooMuch(BadValue):
    """A YAML text that is small and means more than is read: aliases of aliases, a number of thousands of digits."""


class _Loader(_PARSER):
    """Keys are texts as they are written: a modality may be called on, and a class no. Numbers have a limit."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


def _whole(loader: Any, node: Any) -> int:
    if len(node.value) > MOST_DIGITS:
        line, n = node.start_mark.line + 1, len(node.value)
        raise TooMuch(f"line {line} has a number of {n:,} digits, and at most {MOST_DIGITS} are read.")
    return int(yaml.SafeLoader.construct_yaml_int(loader, node))


_Loader.add_constructor("tag:yaml.org,2002:int", _whole)


@dataclass
class Document:
    """The data of a file, the line of each key (by its path from the root), what stands at each plain value (no becomes
    false, 1.0 a number), and the faults found so far."""

    source: str
    data: Any
    lines: dict[Key, int]
    written: dict[Key, str] = field(default_factory=dict)
    faults: list[tuple[int, str]] = field(default_factory=list)

    def fault(self, key: Key, message: str) -> None:
        line = next((self.lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self.lines), 1)
        where = ".".join(map(str, key))
        self.faults.append((line, f"{where + ': ' if where else ''}{message}"))

    @contextlib.contextmanager
    def faults_at(self, key: Key) -> Iterator[None]:
        """A block whose BadValue is noted as a fault of a key."""
        try:
            yield
        except BadValue as error:
            self.fault(key, str(error))

    def raise_faults(self) -> None:
        """Raise BadValue that lists every fault with its line, if there is any."""
        if self.faults:
            listed = "\n".join(f"  line {line}: {message}" for line, message in sorted(self.faults))
            n = len(self.faults)
            raise BadValue(f"{self.source} has {n} fault{'s' if n > 1 else ''}:\n{listed}")


def read(path: Path, source: str | None = None) -> Document:
    """Parse a file with the safe loader. Raises BadValue when it cannot be read or is not YAML."""
    data = read_regular(path, "the file", LARGEST)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadValue(f"cannot read {path}: it is not UTF-8 text (byte {error.start}).") from None
    return parse(text, source or str(path))


def parse(text: str, source: str) -> Document:
    """The same of a text. source: what it is called in messages."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        document = Document(source, None, {})
        if node is not None:
            _check_size(node, source)
            _walk(node, (), document, set())
            document.data = loader.construct_document(node)
        return document
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise BadValue(f"{source} is not valid YAML: {where}{problem}.") from None
    except TooMuch as error:
        raise TooMuch(f"{source}: {error}" if source not in str(error) else str(error)) from None
    except ValueError as error:  # a date or number that has the form but no value, such as 2020-13-45
        raise BadValue(f"{source} holds a value that cannot be read: {error}.") from None
    except RecursionError:
        raise BadValue(f"{source} is nested too deeply.") from None
    finally:
        loader.dispose()


def _walk(node: yaml.Node, key: Key, document: Document, seen: set[int]) -> None:
    """Note the line of every key. seen: the nodes done so far, since an alias can make a file a graph with cycles."""
    document.lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.ScalarNode):
        document.written[key] = node.value
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {name.start_mark.line + 1}: a key must be a plain word")
            child = (*key, name.value)
            if child in document.lines:
                document.lines[child] = name.start_mark.line + 1
                document.fault(child, "given twice")
            document.lines[child] = name.start_mark.line + 1
            _walk(value, child, document, seen)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _walk(value, (*key, i), document, seen)


def _check_size(node: yaml.Node, source: str) -> None:
    """Raise BadValue where aliases make a small file a huge one, or one that holds itself."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()
    stack: list[tuple[yaml.Node, bool]] = [(node, False)]
    while stack:
        at, done = stack.pop()
        inner = _inner(at)
        if done:
            open_nodes.discard(id(at))
            sizes[id(at)] = 1 + sum(sizes[id(n)] for n in inner)
        elif id(at) in open_nodes:
            raise TooMuch(f"{source}, line {at.start_mark.line + 1}: an alias stands within what it names.")
        elif id(at) not in sizes:
            open_nodes.add(id(at))
            stack.append((at, True))
            stack += [(n, False) for n in inner if id(n) not in sizes]
    if (total := sizes[id(node)]) > MOST_VALUES:
        raise TooMuch(
            f"{source}: its aliases make {float(total):.2g} values of it, and at most {MOST_VALUES:,} are read. Write out "
            "what is meant."
        )


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [n for pair in node.value for n in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
