"""Replay test vectors: compute published or recorded numbers with the library's own code and compare.

    python -m mmzoo.testing.replay FILE.json|FOLDER ...

A method of yours joins in by a function decorated with `replays`, in a module named with --import.
"""

from mmzoo.testing.replay.registry import Case, Check, Result, Skip, cases_of, replay, replays, skip

__all__ = ["Case", "Check", "Result", "Skip", "cases_of", "replay", "replays", "skip"]
