"""`calicoctl node status`: how the agent on this node is, in its own words (calico_node/status.py)."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from calico_node import client, protocol
from calicoctl.command import CONTEXT, Failure, global_options
from calicoctl.output import TEXT, echo, form_option
from calicoctl.table import printable, render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datastore.api import Json

EXIT_CODES = """\b
Exit codes:
  0  the agent runs and is ready
  1  it does not run, or did not answer: one line on stderr says why
  2  wrong command line
  3  it runs, but is not ready, or is stopping"""
EPILOG = f"""\b
Examples:
  calicoctl node status
  calicoctl node status -o json | jq '.lastHour.ADD.total.p99Ms'

\b
While the agent does not run, pods are attached and detached all the same, by the plugin itself, which is slower.

\b
Environment:
  CALICO_CNI_SOCKET    the agent's socket, unless --socket says so  [default: {client.SOCKET}]

{EXIT_CODES}
"""
NOT_READY = 3  # exit code
ASKING = protocol.Request("calico-node", {"CALICO_NODE_COMMAND": "status"}, b"", 0, None, protocol.NEWEST)
PATIENCE = 5.0  # seconds
KEYS = frozenset({"version", "protocol", "pid", "started", "uptimeSeconds", "ready", "reasons", "draining", "inFlight",
                  "waiting", "delQueue", "connections", "requests", "lastHour"})
UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


@click.command(epilog=EPILOG, context_settings=CONTEXT)
@click.option("--socket", "path", metavar="PATH", envvar="CALICO_CNI_SOCKET", default=client.SOCKET,
              help="Socket that the agent listens on.")
@form_option
@global_options
def status(path: str, form: str) -> None:
    """Show whether the agent runs and is ready, what it is doing, and how fast it was in the last hour."""
    if os.geteuid() != client.ROOT:
        raise Failure("the agent speaks to root only: run this as root")
    found = _asked(path)
    if form == TEXT:
        click.echo("\n".join(_lines(found)))
    else:
        echo(found, form)
    click.get_current_context().exit(0 if found["ready"] else NOT_READY)


def _asked(path: str) -> Json:
    """Return what the agent says. Raises Failure."""
    try:
        with client.connect(path) as agent:
            answer = agent.ask(ASKING, seconds=PATIENCE)
    except (client.Absent, client.Refused) as error:
        raise Failure(f"calico-node does not run ({error}); pods are served by the slower plugin meanwhile; "
                      "to start it: systemctl start calico-node") from error
    except client.AgentError as error:
        raise Failure(f"calico-node did not answer ({error}); pods are served by the slower plugin meanwhile; "
                      "to start it anew: systemctl restart calico-node") from error
    return _understood(path, answer)


def _understood(path: str, answer: client.Answer) -> Json:
    try:
        found = json.loads(answer.stdout)
    except ValueError:
        found = None
    if answer.code or not isinstance(found, dict) or not found.keys() >= KEYS:
        raise Failure(f"{path}: the agent's answer is no status; is it of another release than calicoctl?")
    return found


def _lines(found: Json) -> Iterator[str]:
    yield _headline(found)
    yield ""
    yield render(("PROPERTY", "VALUE"), list(_properties(found)))
    if found["requests"]:
        yield "\nRequests since it was started"
        yield render(("VERB", "CODE", "COUNT"), list(_requests(found["requests"])), (1, 2))
    if found["lastHour"]:
        yield "\nDurations in the last hour, in milliseconds"
        yield render(("VERB", "STAGE", "COUNT", "MEDIAN", "90%", "99%"), list(_latencies(found["lastHour"])),
                     range(2, 6))


def _headline(found: Json) -> str:
    if found["draining"]:
        return "Calico process is stopping."
    if found["ready"]:
        return "Calico process is running."
    return f"Calico process is running, but not ready: {printable('; '.join(map(str, found['reasons'])))}."


def _properties(found: Json) -> Iterator[tuple[str, str]]:
    spoken = found["protocol"]
    for name, value in (
        ("Version", found["version"]),
        ("Protocol versions", f"{spoken['oldest']} to {spoken['newest']}"),
        ("Process", found["pid"]),
        ("Started", f"{found['started']}, {_span(int(found['uptimeSeconds']))} ago"),
        ("Requests in flight", found["inFlight"]),
        ("Requests waiting", found["waiting"]),
        ("DELs queued", found["delQueue"]),
        ("Connections", found["connections"]),
    ):
        yield name, printable(str(value))


def _requests(requests: Json) -> Iterator[tuple[str, str, str]]:
    for verb, codes in requests.items():
        for code, count in codes.items():
            yield printable(verb), printable(code), str(count)


def _latencies(verbs: Json) -> Iterator[tuple[str, ...]]:
    for verb, stages in verbs.items():
        for stage, latency in stages.items():
            times = (f"{latency[share]:.2f}" for share in ("p50Ms", "p90Ms", "p99Ms"))
            yield printable(verb), printable(stage), str(latency["count"]), *times


def _span(seconds: int) -> str:
    """Return a time in its two largest units: `3 h 12 min`."""
    parts = []
    for unit, size in UNITS:
        count, seconds = divmod(seconds, size)
        parts.append((count, unit))
    first = next((at for at, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first:first + 2])
