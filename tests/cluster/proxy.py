"""A wire between a host and a server that can be slow, or keep to itself what it was given."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from functools import partial


def slow(ports: Mapping[int, tuple[str, int]], seconds: float) -> None:
    """Serve for ever: what comes to a port on loopback goes to a server, each piece so much later, both ways."""
    asyncio.run(_serve(ports, seconds))


async def _serve(ports: Mapping[int, tuple[str, int]], seconds: float) -> None:
    servers = [await asyncio.start_server(partial(_join, server, seconds), "127.0.0.1", port)
               for port, server in ports.items()]
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def _join(server: tuple[str, int], seconds: float, reader: asyncio.StreamReader,
                writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(seconds * 2)  # what a handshake would take
    try:
        there, back = await asyncio.open_connection(*server)
    except OSError:
        writer.close()
        return
    await asyncio.gather(_carry(reader, back, seconds), _carry(there, writer, seconds))


async def _carry(source: asyncio.StreamReader, to: asyncio.StreamWriter, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    try:
        while piece := await source.read(1 << 16):
            loop.call_later(seconds, to.write, piece)
    except OSError:
        pass
    loop.call_later(seconds, to.close)


class Unreliable:
    """A wire that breaks in the worst moments, as a server does that dies, for so many of a hundred requests.

    lost: requests that are carried out, and whose answers nobody hears; late: requests that arrive up to so many
    seconds later, after whoever sent them has been told that the connection broke.
    """

    def __init__(self, server: tuple[str, int], seed: str, lost: int = 0, late: int = 0, seconds: float = 0.0) -> None:
        self.server, self.lost, self.late, self.seconds = server, lost, late, seconds
        self._chance = random.Random(seed)
        self._held: set[asyncio.Task[None]] = set()

    def serve(self, port: int) -> None:
        """Serve for ever."""
        asyncio.run(self._serve(port))

    async def _serve(self, port: int) -> None:
        server = await asyncio.start_server(self._join, "127.0.0.1", port)
        await server.serve_forever()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self.server)
        answers: asyncio.Task[None] | None = None
        try:
            while request := await _request(reader):
                fate = self._chance.randrange(100)
                if fate < self.lost:
                    if answers:
                        answers.cancel()
                    back.write(request)
                    await there.read(1)  # it has been carried out
                    break
                if fate < self.lost + self.late:
                    self._deliver_later(request)
                    break
                answers = answers or asyncio.create_task(_carry(there, writer, 0.0))
                back.write(request)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if answers:
                answers.cancel()
            back.close()
            writer.close()

    def _deliver_later(self, request: bytes) -> None:
        task = asyncio.create_task(self._deliver(request, self._chance.uniform(0, self.seconds)))
        self._held.add(task)
        task.add_done_callback(self._held.discard)

    async def _deliver(self, request: bytes, seconds: float) -> None:
        await asyncio.sleep(seconds)
        there, back = await asyncio.open_connection(*self.server)
        back.write(request)
        await there.read(1)
        back.close()


async def _request(reader: asyncio.StreamReader) -> bytes:
    """Return a whole HTTP request, empty when there are no more."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    lines = head.lower().split(b"\r\n")
    length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length"))
    return head + await reader.readexactly(length)
