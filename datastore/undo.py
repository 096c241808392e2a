"""Steps that must be taken back when a later one fails, and steps that must all be tried.

The first error is the one that is raised; what failed after it is attached as notes (PEP 678), never in its place.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any


class Undo:
    """A context: `push` beside each step what takes it back; all of it runs, last first, if the body fails."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def push(self, step: Callable[..., object], *arguments: Any) -> None:
        """Remember how to take back a step; push before a step whose answer may get lost."""
        self._steps.append(lambda: step(*arguments))

    def __enter__(self) -> Undo:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Take everything back if there was an error, which goes on."""
        if error is None:
            return
        for step in reversed(self._steps):
            try:
                step()
            except Exception as second:
                error.add_note(f"taking it back failed too: {second}")


def fail(error: Exception) -> None:
    """Raise an error met earlier: a step for `all_of`."""
    raise error


def all_of(*steps: Callable[[], object]) -> None:
    """Run every step, whatever the others do; then raise the first error, with what else failed, each told once."""
    first: Exception | None = None
    told: set[str] = set()
    for step in steps:
        try:
            step()
        except Exception as error:
            if first is None:
                first = error
            elif str(error) not in told:
                first.add_note(f"then also: {error}")
            told.add(str(error))
    if first is not None:
        raise first
