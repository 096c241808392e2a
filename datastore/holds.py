"""Names that one process of this node holds at a time, each a lock file that remembers a holder who was killed."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager, suppress

from datastore.api import Busy
from datastore.disk import make_directory, unusable
from datastore.filename import name_of
from datastore.lock import passing_flock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from datastore.api import Held

FORGET_SECONDS = 3600.0  # runtimes repeat a verb that failed within minutes, or give the container up


class Holds:
    """The lock files of a directory, which is made at the first use."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    @contextmanager
    def hold(self, name: str, seconds: float, keep_mark: bool = False) -> Iterator[Held]:
        """Keep other processes from holding the same name (datastore/api.py). Raises Busy, Unwritable."""
        try:
            make_directory(self._folder)
            lock = passing_flock(os.path.join(self._folder, name_of(name)), seconds, keep_mark)
            held = lock.__enter__()
        except OSError as error:
            raise unusable("lock", self._folder, error) from error
        with ExitStack() as stack:
            stack.push(lock)  # so that it is told of the body's error
            yield held

    def tidy(self) -> None:
        """Remove lock files of killed holders that had not begun, or whose verb nobody has repeated for long.

        Raises Unwritable.
        """
        long_ago = time.time() - FORGET_SECONDS
        try:
            for name in os.listdir(self._folder):
                path = os.path.join(self._folder, name)
                with suppress(Busy), passing_flock(path, 0, keep_mark=True) as held:  # without a mark, removed with it
                    if held.interrupted and os.stat(path).st_mtime < long_ago:
                        os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise unusable("tidy up", self._folder, error) from error
