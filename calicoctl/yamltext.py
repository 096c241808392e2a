"""YAML as Calico's own reader and writer understand it, which is not quite PyYAML's.

Times, and colons between digits (a MAC address), stay text; a field given twice is an error and not the last one; and
aliases (`*name`) that would make a small text a huge value are refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_FOLDING = 2**31
MOST_BY_ALIASES = 1_000_000  # what aliases may add to a document, a node counting 1 and each of its characters 1


class DuplicateKey(yaml.YAMLError):  # type: ignore[misc]  # PyYAML ships no types
    """A mapping has the same key twice."""


class TooManyAliases(yaml.YAMLError):  # type: ignore[misc]
    """A document would be too large with its aliases written out, or endless."""


class _Sizes:
    """How large nodes are with aliases written out; each node is looked into once."""

    def __init__(self) -> None:
        self.known: dict[int, int] = {}
        self.by_aliases = 0

    def of(self, node: Any) -> int:
        """Return the size of a node; raises TooManyAliases for one that is inside itself."""
        if id(node) not in self.known:
            self.known[id(node)] = 0  # no node is so small: it is being looked into
            inner = len(node.value) if isinstance(node, yaml.ScalarNode) else sum(map(self.of, _inside(node)))
            self.known[id(node)] = 1 + inner
            return 1 + inner
        size = self.known[id(node)]
        if not size:
            raise TooManyAliases(f"an alias is inside of what it stands for (recursion){node.start_mark}")
        self.by_aliases += size
        if self.by_aliases > MOST_BY_ALIASES:
            raise TooManyAliases("uses too many aliases: write out what they stand for")
        return size


def _inside(node: Any) -> Iterator[Any]:
    """Yield the nodes directly inside a sequence or a mapping."""
    for item in node.value:
        yield from item if isinstance(item, tuple) else (item,)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """SafeLoader with fewer kinds of plain scalars, keys that are unique, and a limit to aliases."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own name for it

    def compose_document(self) -> Any:
        node = super().compose_document()
        _Sizes().of(node)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise DuplicateKey(f'field "{key.value}" is given twice{node.start_mark}')
                seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """SafeDumper that writes a value as often as it occurs, and quotes text that either loader would not take for text.

    PyYAML's own and ours differ in what a plain number is: 1.5e3, for one.
    """

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", "tTfFyYnNoO"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?[0-9]+\.[0-9]*([eE][-+]?[0-9]+)?", "-+0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def read_all(text: str | bytes) -> Iterator[Any]:
    """Yield what each document of the text holds; raises yaml.YAMLError, ValueError, RecursionError."""
    yield from yaml.load_all(text, _Loader)


def write(value: object) -> str:
    """Return a value as a YAML document: keys in the order given, ASCII only."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=NO_FOLDING))
