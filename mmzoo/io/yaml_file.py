"""YAML files with the line of every key, so that all faults of a file can be named at once. No torch at import."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmzoo.errors import BadValue

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is about seven times faster
Key = tuple[Any, ...]


@dataclass
class Document:
    """The data of a file, the line of each key (by its path from the root), and the faults found so far."""

    source: str
    data: Any
    lines: dict[Key, int]
    faults: list[tuple[int, str]] = field(default_factory=list)

    def fault(self, key: Key, message: str) -> None:
        line = next((self.lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self.lines), 1)
        where = ".".join(map(str, key))
        self.faults.append((line, f"{where + ': ' if where else ''}{message}"))

    def raise_faults(self) -> None:
        """Raise BadValue that lists every fault with its line, if there is any."""
        if self.faults:
            listed = "\n".join(f"  line {line}: {message}" for line, message in sorted(self.faults))
            n = len(self.faults)
            raise BadValue(f"{self.source} has {n} fault{'s' if n > 1 else ''}:\n{listed}")


def read(path: Path, source: str | None = None) -> Document:
    """Parse a file with the safe loader. Raises BadValue when it cannot be read or is not YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadValue(f"cannot read {path}: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise BadValue(f"cannot read {path}: it is not UTF-8 text (byte {error.start}).") from None
    return parse(text, source or str(path))


def parse(text: str, source: str) -> Document:
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        document = Document(source, None, {})
        if node is not None:
            _walk(node, (), document, set())
            document.data = loader.construct_document(node)
        return document
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise BadValue(f"{source} is not valid YAML: {where}{problem}.") from None
    except ValueError as error:  # a date or number that has the form but no value, such as 2020-13-45
        raise BadValue(f"{source} holds a value that cannot be read: {error}.") from None
    except RecursionError:
        raise BadValue(f"{source} is nested too deeply.") from None
    finally:
        loader.dispose()


def _walk(node: yaml.Node, key: Key, document: Document, seen: set[int]) -> None:
    """Note the line of every key. seen: the nodes done so far, since an alias can make a file a graph with cycles."""
    document.lines.setdefault(key, node.start_mark.line + 1)
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
