"""Whether worker processes can import the program that starts them: they run its file again, up to `if __name__ == "__main__":`."""

from __future__ import annotations

import ast
import os
import sys


def unspawnable() -> str | None:
    """In a sentence, why no worker process can start; None where one can.

    A new process imports the main module by its file. A script on standard input has no file, and one without the usual guard
    would do all of its work again in each worker.
    """
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    if main is None or path is None or getattr(main, "__spec__", None) is not None:
        return None  # `python -m` and `python -c`, a notebook or a terminal: nothing of theirs is run again
    if not os.path.isfile(path):
        return f"The program was not read from a file ({path}), so that no worker process can import it."
    if _is_guarded(path):
        return None
    return (
        f'{os.path.basename(path)} has no `if __name__ == "__main__":`, so that each worker process would run all of it again. '
        "Put what it does below that line for as many workers as there are cores."
    )


def _is_guarded(path: str) -> bool:
    """Whether a script asks at its top level how it was started. What cannot be read as Python counts as guarded."""
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    return any(
        isinstance(statement, ast.If)
        and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(statement.test))
        for statement in tree.body
    )
