"""A disk that forgets: what may be left of a directory tree when the power goes, by what has been synced until then.

The model is harsher than any journal. What a file holds is durable up to its last fsync; after that, each of its
states, and each torn mixture of them, may be on the disk. What a name leads to is durable up to the last fsync of its
directory; after that each name is, by itself, at any of its states since: a rename may have reached the disk at its
new name, at its old, at both or at neither.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .trace import Event

Tree = Mapping[str, bytes | str | None]  # path -> content, the path it is a hard link to, None for a directory


@dataclass
class File:
    """Its contents since its last fsync; the last is what a reader sees."""

    contents: list[bytes] = field(default_factory=lambda: [b""])

    def sync(self) -> None:
        del self.contents[:-1]

    def possible(self) -> list[bytes]:
        """Return what may be on the disk: first the durable content, then later and torn ones, last the newest."""
        *older, new = self.contents
        if not older:
            return [new]
        half = len(new) // 2
        torn = [new[:half], bytes(len(new)), new[:half] + bytes(len(new) - half), new[:half] + older[0][half:]]
        return [content for content in dict.fromkeys([*older, *torn]) if content != new] + [new]


@dataclass
class Directory:
    """For each name what it has led to since the directory's last fsync; the last is what a reader sees."""

    names: dict[str, list[Node | None]] = field(default_factory=dict)

    def sync(self) -> None:
        self.names = {name: [states[-1]] for name, states in self.names.items() if states[-1]}

    def now(self, name: str) -> Node | None:
        return self.names.get(name, [None])[-1]

    def set(self, name: str, node: Node | None) -> None:
        self.names.setdefault(name, [None]).append(node)


Node = File | Directory


class Disk:
    """A tree, empty and durable at first, at the path that the traced commands know it by."""

    def __init__(self, at: Path) -> None:
        self.at, self.root = at, Directory()
        self._open: dict[int, Node] = {}

    def apply(self, event: Event) -> None:
        """Carry out a traced call."""
        if not event.failed:
            getattr(self, f"_{event.call}")(event)

    def cuts(self, limit: int, seed: int) -> list[Tree]:
        """Return what may be left if the power goes now: every disk, or so many samples where there are more.

        Among the samples are the disk with nothing of what is pending, and the one with all: what a kill leaves.
        """
        choices = [range(count) for count in self._choices()]
        total = 1
        for choice in choices:
            total *= len(choice)
        if total <= limit:
            return [self._tree(picks) for picks in itertools.product(*choices)]
        dice = random.Random(seed)
        samples = [[dice.choice(choice) for choice in choices] for _ in range(limit - 2)]
        return [self._tree(picks) for picks in ([c[0] for c in choices], [c[-1] for c in choices], *samples)]

    def singles(self) -> Iterator[Tree]:
        """Yield what may be left where one file or name is as it was, and all others as a reader sees them."""
        newest = [count - 1 for count in self._choices()]
        for at, count in enumerate(newest):
            for pick in range(count):
                yield self._tree([*newest[:at], pick, *newest[at + 1 :]])

    def _choices(self) -> Iterator[int]:
        for node in self._nodes():
            if isinstance(node, File):
                yield len(node.possible())
            else:
                yield from (len(states) for _, states in sorted(node.names.items()))

    def _nodes(self) -> list[Node]:
        """Return every node that a name leads to, or led to and still may, each once."""
        found: list[Node] = [self.root]
        for node in found:
            if isinstance(node, Directory):
                states = (state for _, states in sorted(node.names.items()) for state in states)
                found.extend(state for state in states if state and not any(state is other for other in found))
        return found

    def _tree(self, picks: Iterable[int]) -> Tree:
        pick, names, contents = iter(picks), {}, {}
        for node in self._nodes():
            if isinstance(node, File):
                contents[id(node)] = node.possible()[next(pick)]
            else:
                names[id(node)] = {name: states[next(pick)] for name, states in sorted(node.names.items())}
        tree: dict[str, bytes | str | None] = {}
        first: dict[int, str] = {}

        def walk(directory: Directory, path: str) -> None:
            for name, node in names[id(directory)].items():
                there = f"{path}{name}"
                if isinstance(node, Directory):
                    tree[there] = None
                    walk(node, f"{there}/")
                elif node:
                    tree[there] = first.get(id(node), contents[id(node)])
                    first.setdefault(id(node), there)

        walk(self.root, "")
        return tree

    def _find(self, path: str) -> tuple[Directory, str]:
        """Return the directory that a path's last name is in, and that name; the root is in one that never changes."""
        *folders, name = Path(path).relative_to(self.at).parts or (".",)
        node: Node | None = self.root
        for folder in folders:
            assert isinstance(node, Directory), path
            node = node.now(folder)
        assert isinstance(node, Directory), path
        return node, name

    def _at(self, path: str) -> Node | None:
        folder, name = self._find(path)
        return folder if name == "." else folder.now(name)

    def _openat(self, event: Event) -> None:
        node = self._at(event.path)
        if node is None:
            assert "O_CREAT" in event.flags, event
            folder, name = self._find(event.path)
            node = File()
            folder.set(name, node)
        elif "O_TRUNC" in event.flags:
            assert isinstance(node, File), event
            node.contents.append(b"")
        self._open[event.descriptor] = node

    def _write(self, event: Event) -> None:
        node = self._open[event.descriptor]
        assert isinstance(node, File), event
        node.contents.append(node.contents[-1] + event.text)

    def _fsync(self, event: Event) -> None:
        self._open[event.descriptor].sync()

    def _close(self, event: Event) -> None:
        del self._open[event.descriptor]

    def _flock(self, event: Event) -> None:
        assert event.descriptor in self._open, event

    def _rename(self, event: Event) -> None:
        folder, name = self._find(event.path)
        there, new_name = self._find(event.text.decode())
        there.set(new_name, folder.now(name))
        folder.set(name, None)

    def _unlink(self, event: Event) -> None:
        folder, name = self._find(event.path)
        folder.set(name, None)

    def _mkdir(self, event: Event) -> None:
        folder, name = self._find(event.path)
        folder.set(name, Directory())


def materialise(tree: Tree, at: Path) -> None:
    """Make the directories, files and hard links of a tree."""
    at.mkdir(parents=True)
    for name, content in tree.items():
        path = at / name
        if content is None:
            path.mkdir(mode=0o700)
        elif isinstance(content, str):
            os.link(at / content, path)
        else:
            path.write_bytes(content)
