"""`@frozen` behaves as `dataclasses.dataclass(frozen=True)` does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from datastore.frozen import frozen, replace


def make(decorate: Any) -> Any:
    class Point:
        """A point."""

        x: int
        y: int = 2

        @property
        def total(self) -> int:
            return self.x + self.y

    Point.__qualname__ = "Point"
    return decorate(Point)


KINDS: list[Any] = [make(frozen), make(dataclasses.dataclass(frozen=True))]


@pytest.mark.parametrize("kind", KINDS, ids=["frozen", "dataclass"])
def test_behaviour(kind: Any) -> None:
    """Construction, defaults, equality, hash, text and immutability are those of a frozen dataclass."""
    point: Any = kind(1)
    assert (point.x, point.y, point.total) == (1, 2, 3)
    assert kind(1, y=2) == point == kind(x=1)
    assert point != kind(1, 3)
    assert point != (1, 2)
    assert len({point, kind(1)}) == 1
    assert repr(point) == "Point(x=1, y=2)"
    with pytest.raises(AttributeError):
        point.x = 5
    with pytest.raises(AttributeError):
        point.new = 5
    with pytest.raises(AttributeError):
        del point.x
    for arguments, fields in (((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1})):
        with pytest.raises(TypeError):
            kind(*arguments, **dict(fields))


@pytest.mark.parametrize("decorate", [frozen, dataclasses.dataclass(frozen=True)], ids=["frozen", "dataclass"])
def test_a_text_of_its_own(decorate: Any) -> None:
    """A class that says itself what it looks like is taken at its word."""
    class Secret:
        word: str

        def __repr__(self) -> str:
            return "Secret(...)"

    assert repr(decorate(Secret)("x")) == "Secret(...)"


def test_replace() -> None:
    """A copy with changes leaves the original alone, and knows its fields."""
    kind = KINDS[0]
    point = kind(1)
    assert replace(point, y=5) == kind(1, 5)
    assert point == kind(1, 2)
    with pytest.raises(TypeError):
        replace(point, z=1)
