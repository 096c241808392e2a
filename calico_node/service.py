"""What the agent does with one request: the very verbs of the executables, and questions about itself."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from calico_node import protocol
from calico_node.conversation import Conversation
from calico_node.protocol import Request
from calico_node.warm import Shared, Warm
from cni_calico import netns, skel
from cni_calico.__main__ import CALICO
from cni_calico.addresses import given_since
from cni_calico.skel import Call
from cni_calico.world import Declined, Gone
from datastore.api import Store
from ipam.__main__ import CALICO_IPAM

PLUGINS = {plugin.name: plugin for plugin in (CALICO, CALICO_IPAM)}
OWN = "calico-node"
CLOCK_GRAIN = 10**7  # ns; a file's time is behind the clock by up to a tick of the kernel
ENVIRONMENT = ("PATH", "CALICO_", "NO_DEFAULT_POOLS")  # what of the agent's own environment its verbs see
Observe = Callable[[str, str, int, Mapping[str, float]], None]


class _Asked(Warm):
    """The way of a request that a launcher waits for. `stdout` is what the verb has printed."""

    def __init__(self, shared: Shared, request: Request, conversation: Conversation) -> None:
        super().__init__(shared, conversation.netns, request.netns_errno)
        self.stdout, self.was_sent, self.ended = io.BytesIO(), False, 0.0
        self._conversation, self._idling = conversation, shared.workers.idling

    def still_wanted(self, call: Call, store: Store) -> None:
        """Raise Gone when the launcher has closed: it has fallen back, or was killed."""
        if not self._conversation.is_open():
            raise Gone

    def deliver(self) -> bool:
        """Send what was printed as the answer of a verb that worked; tell whether it was taken."""
        self.was_sent, self.ended = True, time.monotonic()
        with self._idling():
            return self._conversation.say(protocol.result(0, self.stdout.getvalue())) and self._conversation.was_taken()


class _Queued(Warm):
    """The way of a DEL from a file, which was put there at a time (ns since 1970)."""

    def __init__(self, shared: Shared, path: str, queued_at: int) -> None:
        super().__init__(shared, -1, 0)
        self.stdout, self.is_late = io.BytesIO(), False
        self._path, self._queued_at = path, queued_at

    def still_wanted(self, call: Call, store: Store) -> None:
        """Raise Gone when the DEL was done meanwhile, or the attachment was added anew since."""
        self.is_late = given_since(store, call.attachment, self._queued_at + CLOCK_GRAIN)
        if self.is_late or not self._is_there():
            raise Gone

    def _is_there(self) -> bool:
        try:
            return os.stat(self._path).st_mtime_ns == self._queued_at
        except FileNotFoundError:
            return False


class Service:
    """Carries out requests, in any thread. `status` answers what is asked about the agent itself."""

    def __init__(self, shared: Shared, observe: Observe, status: Callable[[], Mapping[str, Any]]) -> None:
        self._shared, self._observe, self._status = shared, observe, status
        self._host_netns = netns.own_identity()
        self._env = {name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)}

    def refusal(self, request: Request) -> str:
        """Return why a request is not for this agent, or nothing."""
        if request.plugin not in (*PLUGINS, OWN):
            return f"plugin {request.plugin!r} is not one that the agent serves"
        if request.host_netns not in (None, self._host_netns):
            return "the agent is in another network namespace than the launcher"
        return ""

    def is_urgent(self, request: Request) -> bool:
        """Tell whether a request has to be answered at once: those that only ask how things are."""
        return request.plugin == OWN or request.env.get("CNI_COMMAND") == "STATUS"

    def serve(self, conversation: Conversation, request: Request) -> None:
        """Answer a request."""
        if request.plugin == OWN:
            conversation.say(protocol.result(0, json.dumps(self._status()).encode() + b"\n"))
            return
        world = _Asked(self._shared, request, conversation)
        began = time.monotonic()
        try:
            code = self._run(request, world)
        except Declined as error:
            conversation.say(protocol.frame(protocol.DECLINED, str(error).encode(errors="replace")))
            return
        if not world.was_sent:
            world.ended = time.monotonic()
            conversation.say(protocol.result(code, world.stdout.getvalue()))
        queued, total = max(0.0, began - conversation.asked), world.ended - conversation.asked
        stages = {"queue": queued, **world.laps, "total": total}
        error_code = int(_error(world.stdout).get("code", code)) if code else 0
        self._observe(request.plugin, request.env.get("CNI_COMMAND", ""), error_code, stages)

    def carry_out(self, request: Request, path: str, queued_at: int) -> tuple[int, str]:
        """Carry out a DEL from a file; return its error's code and text, 0 for success. Raises Declined."""
        if request.plugin not in PLUGINS:
            raise Declined(f"plugin {request.plugin!r} is not one that the agent serves")
        world = _Queued(self._shared, path, queued_at)
        code = self._run(request, world)
        if not code or world.is_late:
            return 0, ""
        error = _error(world.stdout)
        return int(error.get("code", code)), str(error.get("msg", "it was done meanwhile"))

    def _run(self, request: Request, world: _Asked | _Queued) -> int:
        env = {**self._env, **request.env}
        return skel.run(PLUGINS[request.plugin], env, io.BytesIO(request.stdin), world.stdout, world)


def _error(stdout: io.BytesIO) -> dict[str, Any]:
    text = stdout.getvalue()
    return dict(json.loads(text)) if text else {}
