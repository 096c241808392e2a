"""What the agent does with one request: the very verbs of the executables, and questions about itself."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from calico_node import protocol
from calico_node.conversation import Conversation
from calico_node.protocol import Request
from calico_node.warm import Shared, Warm
from cni_calico import netns, skel
from cni_calico.__main__ import CALICO
from cni_calico.world import Declined, Gone
from ipam.__main__ import CALICO_IPAM

PLUGINS = {plugin.name: plugin for plugin in (CALICO, CALICO_IPAM)}
OWN = "calico-node"
ENVIRONMENT = ("PATH", "CALICO_")  # what of the agent's own environment its verbs see
Observe = Callable[[str, str, int, Mapping[str, float]], None]
Idling = Callable[[], AbstractContextManager[None]]


class _Answer(io.BytesIO):
    """The standard output of one verb, handed over at once when an ADD has its result."""

    def __init__(self, conversation: Conversation | None, idling: Idling) -> None:
        super().__init__()
        self._conversation, self._idling = conversation, idling
        self.was_sent = False

    def deliver(self) -> bool:
        """Send what was written as the answer of a verb that worked; tell whether it was taken."""
        if self._conversation is None:
            return True
        self.was_sent = True
        with self._idling():
            return self._conversation.say(protocol.result(0, self.getvalue())) and self._conversation.was_taken()


class _OneCall(Warm):
    """A request's way, which ends where it came from."""

    def __init__(self, shared: Shared, request: Request, conversation: Conversation | None, answer: _Answer) -> None:
        super().__init__(shared, conversation.netns if conversation else -1, request.netns_errno)
        self._conversation, self._answer = conversation, answer

    def still_wanted(self) -> None:
        """Raise Gone when the launcher has closed: it has fallen back, or was killed."""
        if self._conversation and not self._conversation.is_open():
            raise Gone

    def deliver(self) -> bool:
        """Hand the result over."""
        return self._answer.deliver()


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
        try:
            code, stdout, was_sent = self._run(request, conversation)
        except Declined as error:
            conversation.say(protocol.frame(protocol.DECLINED, str(error).encode(errors="replace")))
            return
        if not was_sent:
            conversation.say(protocol.result(code, stdout))

    def carry_out(self, request: Request) -> tuple[int, str]:
        """Carry out what nobody waits for; return its error's code and text, 0 for success. Raises Declined."""
        if request.plugin not in PLUGINS:
            raise Declined(f"plugin {request.plugin!r} is not one that the agent serves")
        code, stdout, _ = self._run(request, None)
        error = _error(stdout) if code else {}
        return int(error.get("code", code)), str(error.get("msg", ""))

    def _run(self, request: Request, conversation: Conversation | None) -> tuple[int, bytes, bool]:
        answer = _Answer(conversation, self._shared.workers.idling)
        began = time.perf_counter()
        world = _OneCall(self._shared, request, conversation, answer)
        code = skel.run(PLUGINS[request.plugin], {**self._env, **request.env}, io.BytesIO(request.stdin), answer, world)
        queued = time.monotonic() - conversation.asked - (time.perf_counter() - began) if conversation else 0.0
        stages = {"queue": max(0.0, queued), **world.laps}
        stages["total"] = sum(stages.values())
        error = _error(answer.getvalue()).get("code", 0) if code else 0
        self._observe(request.plugin, request.env.get("CNI_COMMAND", ""), int(error or code), stages)
        return code, answer.getvalue(), answer.was_sent


def _error(stdout: bytes) -> dict[str, Any]:
    return dict(json.loads(stdout)) if stdout else {}
