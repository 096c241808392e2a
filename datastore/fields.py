"""Reading fields of JSON records: a record of another shape is Corrupt, never half understood."""

from __future__ import annotations

from datastore.api import Corrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    from datastore.api import Json, Record

    T = TypeVar("T")


def read(record: Record, reader: Callable[[Json], T]) -> T:
    """Apply a reader to a record's value; raises Corrupt, naming the record."""
    try:
        return reader(record.value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"record {record.key} is not what its key says ({error!r}); repair it before its use") from error


def others(value: Json, *known: str) -> Json:
    """Return the fields that this release does not know, to be written back."""
    return {name: item for name, item in value.items() if name not in known}


def text(value: object) -> str:
    """Return a string; raises TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def texts(value: Mapping[str, Any] | None) -> dict[str, str]:
    """Return a mapping of strings to strings, empty for none; raises TypeError."""
    found = dict((value or {}).items())
    if not {*map(type, found.values())} <= {str}:  # a block has hundreds: one look at all; JSON's names are strings
        raise TypeError(f"{found!r} has something that is not a string")
    return found


def count(value: object) -> int:
    """Return a natural number; raises TypeError."""
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is not a natural number")
    return value


def truth(value: object, default: bool) -> bool:
    """Return a truth value, the default for none; raises TypeError."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value
