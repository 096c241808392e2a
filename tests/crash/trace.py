"""What calico-ipam does to its datastore, system call by system call, as strace saw it."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from pathlib import Path

# All by which files, directories and their contents change, or become durable. What the model lacks is refused.
CHANGING = ("openat", "write", "fsync", "rename", "unlink", "mkdir", "close", "flock")
UNKNOWN = ("open", "creat", "pwrite64", "writev", "pwritev", "fdatasync", "sync_file_range", "renameat", "renameat2",
           "unlinkat", "rmdir", "mkdirat", "link", "linkat", "symlink", "symlinkat", "truncate", "ftruncate",
           "fallocate", "sendfile", "copy_file_range", "splice", "mknod", "mknodat", "dup", "dup2", "dup3")
LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)(?:<.*>)?(?: \w+ \(.*\))?$")
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
WHERE = re.compile(r"^\w+<(.*?)>")
DESCRIPTOR = re.compile(r"^(\d+)<(.*?)>")


@dataclass(frozen=True)
class Event:
    """One system call: on which path, by which descriptor, with which text (a new name, or data)."""

    call: str
    path: str
    descriptor: int = -1
    text: bytes = b""
    flags: str = ""
    failed: bool = False
    number: int = 0  # which call of its kind on its path it is, from 1

    @property
    def changes(self) -> bool:
        """Tell whether a crash before it can differ from one after it: not for what failed, or only reads."""
        if self.failed or (self.call == "openat" and "O_CREAT" not in self.flags):
            return False
        return self.call != "close" or self.path.endswith((".lock", ".write"))


def strace(log: Path) -> tuple[str, ...]:
    """Return the prefix that writes a whole trace of a command to a file."""
    return ("strace", "-f", "-y", "-qq", "-s", "1000000", "-o", str(log), "-e", f"trace={','.join(CHANGING + UNKNOWN)}")


def kill_before(event: Event, log: Path) -> tuple[str, ...]:
    """Return the prefix that kills a command as it enters this call, which is then not carried out."""
    return _signal(event, log, "KILL")


def stop_at(event: Event, log: Path) -> tuple[str, ...]:
    """Return the prefix that stops a command at this call, which is carried out; the log then says `stopped`."""
    return _signal(event, log, "STOP")


def _signal(event: Event, log: Path, name: str) -> tuple[str, ...]:
    return ("strace", "-f", "-y", "-o", str(log), "-P", event.path, "-e", f"trace={event.call}",
            "-e", f"inject={event.call}:signal={name}:when={event.number}")


def read(log: Path, directory: Path) -> list[Event]:
    """Return what was done at or below a directory, in order."""
    found: list[Event] = []
    for line in log.read_text().splitlines():
        event = _event(line)
        if event and Path(event.path).is_relative_to(directory):
            assert event.call in CHANGING, line
            of_kind = [other for other in found if other.call == event.call and event.path in _paths(other)]
            found.append(replace(event, number=len(of_kind) + 1))
    return found


def _paths(event: Event) -> tuple[str, str]:
    return event.path, event.text.decode() if event.call == "rename" else ""


def _event(line: str) -> Event | None:
    match = LINE.match(line)
    if not match:
        return None
    call, arguments, result = match[1], match[2], int(match[3])
    texts = [ast.literal_eval(f'b"{text}"') for text in TEXT.findall(arguments)]
    if call == "openat":
        path = Path(WHERE.findall(arguments)[0], texts[0].decode())
        return Event(call, str(path), result, flags=arguments.rpartition('"')[2], failed=result < 0)
    if descriptor := DESCRIPTOR.match(arguments):
        return Event(call, descriptor[2], int(descriptor[1]), b"".join(texts)[: max(result, 0)], failed=result < 0)
    return Event(call, texts[0].decode(), text=b"".join(texts[1:]), failed=result < 0) if texts else None
