"""`@frozen`: immutable values with a constructor, equality and a readable form.

`dataclasses` is the library for this, but importing it costs 15-20 ms (it pulls in `inspect`), three times the
interpreter's own start, on a path that is exec'd once per pod. Type checkers see a frozen dataclass; at run time these
thirty lines do the same. tests/unit/test_frozen.py holds both to the same behaviour.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_: object):
        """Mark the decorator for type checkers; nothing at run time."""
        return lambda decorator: decorator


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """Make `cls`, a class that only annotates its fields (defaults allowed), an immutable value.

    A `__repr__` of its own is kept, as dataclasses do: for what has secrets.
    """
    names = tuple(cls.__annotations__)
    known = frozenset(names)
    defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}

    def init(self: object, *args: Any, **fields: Any) -> None:
        if len(args) == len(names) and not fields:  # a block has as many owners as addresses
            vars(self).update(zip(names, args, strict=True))
            return
        if len(args) > len(names):
            raise TypeError(f"{cls.__name__} takes {len(names)} fields, not {len(args)}")
        given = dict(zip(names, args, strict=False))
        values = {**defaults, **given, **fields} if len(args) + len(fields) < len(names) else {**given, **fields}
        if values.keys() != known or (given and given.keys() & fields.keys()):
            odd = sorted((given.keys() & fields.keys()) | (values.keys() ^ known))
            raise TypeError(f"{cls.__name__}: missing, unknown or repeated fields: {', '.join(odd)}")
        vars(self).update(values)

    def refuse(self: object, name: str, *_: object) -> None:
        raise AttributeError(f"{cls.__name__}.{name} cannot change: the value is frozen")

    def key(self: object) -> tuple[object, ...]:
        return tuple(vars(self)[name] for name in names)

    def equal(self: object, other: object) -> bool:
        return vars(self) == vars(other) if type(other) is type(self) else NotImplemented

    def show(self: object) -> str:
        return f"{cls.__name__}({', '.join(f'{name}={value!r}' for name, value in zip(names, key(self), strict=True))})"

    methods: dict[str, Any] = {
        "__init__": init, "__setattr__": refuse, "__delattr__": refuse,
        "__eq__": equal, "__hash__": lambda self: hash(key(self)),
        "__repr__": vars(cls).get("__repr__", show),
    }
    for name, method in methods.items():
        setattr(cls, name, method)
    return cls


def replace(value: T, **changes: object) -> T:
    """Return a copy of a frozen value with some fields changed."""
    return type(value)(**{**vars(value), **changes})
