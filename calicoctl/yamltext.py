"""YAML as Calico's own reader and writer understand it, which is not quite PyYAML's.

Times, and colons between digits (a MAC address), stay text; a field given twice is an error and not the last one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_FOLDING = 2**31


class DuplicateKey(yaml.YAMLError):  # type: ignore[misc]  # PyYAML ships no types
    """A mapping has the same key twice."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """SafeLoader with fewer kinds of plain scalars, and keys that are unique."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own name for it

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if keys.count(key) > 1:
                raise DuplicateKey(f'field "{key}" is given twice{node.start_mark}')
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """SafeDumper that writes a value as often as it occurs, not a reference to its first occurrence."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", "tTfFyYnNoO"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?[0-9]+\.[0-9]*([eE][-+]?[0-9]+)?", "-+0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def read_all(text: str) -> Iterator[Any]:
    """Yield what each document of the text holds; raises yaml.YAMLError, ValueError, RecursionError."""
    yield from yaml.load_all(text, _Loader)


def write(value: object) -> str:
    """Return a value as a YAML document: keys in the order given, ASCII only."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=NO_FOLDING))
