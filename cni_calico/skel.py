"""The CNI contract: verbs, environment, versions, errors, exit code. The only place that prints and exits.

Follows the CNI spec 1.1.0 and, where runtimes rely on it, the reference skel (containernetworking/cni pkg/skel).
The outside world is an argument of `run`, so the whole contract can be tested without a process.
"""

from __future__ import annotations

import os
import sys
import time

from cni_calico import errors
from cni_calico.args import Args, Attachment, check_container_id, check_ifname, check_network, parse_args
from cni_calico.config import NetConf, log_settings, parse
from cni_calico.errors import CniError, as_cni_error
from cni_calico.log import STDERR, Log, close_log, open_log, stderr
from cni_calico.result import NEWEST, VERSIONS, Result, to_json
from cni_calico.version import VERSION
from cni_calico.world import Declined, Gone, World
from datastore.frozen import frozen
from datastore.jsontext import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, BinaryIO, Protocol

    class Sink(Protocol):
        """Where the answer goes."""

        def write(self, data: bytes, /) -> int | None:
            """Write some of the data; return how much."""

REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
}
SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
# go-cni takes a DEL error with these words for success, and the address would leak (rule D8).
SWALLOWED = (("not found", "absent"), ("no such file or directory", "absent"), ("No such file or directory", "absent"))


@frozen
class Call:
    """One verb to be carried out: the environment checked, the configuration parsed.

    `attachment` and `netns` mean something for ADD, DEL and CHECK only; netns is the path as the runtime gave it.
    `answer` hands over the result of an ADD, which undoes itself when it raises Untaken.
    """

    command: str
    attachment: Attachment
    netns: str
    args: Args
    conf: NetConf
    stdin: bytes
    env: Mapping[str, str]
    log: Log
    world: World
    answer: Callable[[Result], None]


class Untaken(Exception):
    """Nobody took the result of an ADD: the runtime is gone, or will take it for a failed one (containerd#12922)."""


@frozen
class Plugin:
    """An executable on this skel: its name, and where its verbs are, imported when one is called."""

    name: str
    about: str
    verbs: Callable[[], Mapping[str, Callable[[Call], Result | None]]]


def main(plugin: Plugin) -> int:
    """Run as this process; return its exit code."""
    os.umask(0o022)  # the runtime's own may be anything; what is private is made so by its mode
    _fill_standard_descriptors()
    arguments = sys.argv[1:]
    # Unbuffered: what could not be written must not be written after all when the interpreter ends.
    stdout: Sink | None = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer) if sys.stdout else None
    if arguments in (["-v"], ["--version"]):
        return 0 if _print(f"{VERSION}\n".encode(), stdout) else 1
    if arguments in (["-h"], ["--help"]):
        return 0 if _print(_usage(plugin).encode(), stdout) else 1
    if arguments:
        stderr(f"{plugin.name}: unknown argument {arguments[0]!r}; try {plugin.name} --help\n")
        return 2
    return run(plugin, os.environ, sys.stdin.buffer if sys.stdin else None, stdout)


def run(
    plugin: Plugin, env: Mapping[str, str], stdin: BinaryIO | None, stdout: Sink | None, world: World | None = None
) -> int:
    """Carry out CNI_COMMAND; write the result or the error as one JSON object; return the exit code (0 or 1)."""
    world = world or World()
    command = env.get("CNI_COMMAND", "")
    if not command:
        stderr(_usage(plugin))
        return 0
    if command == "VERSION":
        return 0 if _reply({"cniVersion": NEWEST, "supportedVersions": list(VERSIONS)}, stdout) else 1
    version, log, start = NEWEST, Log(), time.monotonic()
    try:
        if command not in REQUIRED:
            raise CniError(errors.INVALID_ENVIRONMENT, f"CNI_COMMAND {command!r} is unknown")
        _require(command, env)
        data = _read(stdin)
        body = _decode(data)
        log = open_log(log_settings(body))
        if env.get("CALICO_AGENT_LOST"):
            log.warning(f"the agent was lost while it worked on this {command}, which is carried out without it")
        version = _version(body, command)
        return _carry_out(plugin, _call_of(command, env, data, body, version, log, world, stdout))
    except Declined:
        raise
    except Gone:
        log.warning(f"{command} was given up: nobody waits for it", duration=_since(start))
        return 1
    except Untaken:
        log.error("nobody took the result; the ADD is undone", duration=_since(start))
        return 1
    except Exception as error:  # the last resort: whatever happens, the runtime gets an error object
        known = as_cni_error(error)
        if known.code in (errors.INTERNAL, errors.IO_FAILURE):
            from traceback import format_exc

            log.error("traceback", text=format_exc())
        log.error(f"{command} failed", code=known.code, msg=known.msg, details=known.details, duration=_since(start))
        _fail(command, known, version, stdout)
        return 1
    finally:
        close_log(log)


def _fill_standard_descriptors() -> None:
    """Open /dev/null for 0, 1 and 2 where the runtime closed them: else the next file opened would be our stderr."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(fd)


def _call_of(
    command: str, env: Mapping[str, str], data: bytes, body: Mapping[str, Any], version: str, log: Log,
    world: World, stdout: Sink | None,
) -> Call:
    """Return the call, everything it says checked. Raises CniError."""
    network = check_network(body.get("name"))
    strict = command != "DEL"
    attachment = Attachment(network, "", "")
    if REQUIRED[command]:
        container_id = check_container_id(env["CNI_CONTAINERID"], network)
        attachment = Attachment(network, container_id, check_ifname(env["CNI_IFNAME"], strict))
        if strict:
            _refuse_own_netns(env, world)
    conf = parse(body, network, version, strict, env)
    args = parse_args(env.get("CNI_ARGS", ""), strict)
    log = log.about(**_words(attachment, args))

    def answer(result: Result) -> None:
        if not (_reply(to_json(result, version), stdout) and world.deliver()):
            raise Untaken

    return Call(command, attachment, env.get("CNI_NETNS", ""), args, conf, data, env, log, world, answer)


def _carry_out(plugin: Plugin, call: Call) -> int:
    """Run the verb, which answers; return the exit code. Raises CniError, its details saying whose it is."""
    call.world.accept(call)
    call.world.lap("config")
    try:
        _timed(plugin.verbs()[call.command], call)
        return 0
    except (Gone, Untaken):
        raise
    except Exception as error:
        known = as_cni_error(error)
        whose = ", ".join(f"{name} {word}" for name, word in _words(call.attachment, call.args).items())
        raise CniError(known.code, known.msg, f"{known.details}; {whose}" if known.details else whose) from error


def _timed(verb: Callable[[Call], Result | None], call: Call) -> None:
    start = time.monotonic()
    result = verb(call)
    addresses = {"ip": ",".join(ip.bare for ip in result.ips)} if result else {}
    call.log.info(call.command, **addresses, duration=_since(start))


def _words(attachment: Attachment, args: Args) -> dict[str, str]:
    """Return what every log line of this call says."""
    words = {"network": attachment.network}
    if attachment.container_id:
        words |= {"container": attachment.container_id, "interface": attachment.ifname}
    if args.pod:
        words["pod"] = f"{args.namespace}/{args.pod}" if args.namespace else args.pod
    return words


def _since(start: float) -> str:
    return f"{(time.monotonic() - start) * 1000:.1f}ms"


def _require(command: str, env: Mapping[str, str]) -> None:
    """Raise one error that names every variable missing; empty is missing (libcni sets what it does not know to "")."""
    missing = [name for name in REQUIRED[command] if not env.get(name)]
    if missing:
        raise CniError(errors.INVALID_ENVIRONMENT, f"required environment variables are missing: {', '.join(missing)}")


def _read(stdin: BinaryIO | None) -> bytes:
    if stdin is None:
        raise CniError(errors.IO_FAILURE, "stdin, which carries the network configuration, is closed")
    try:
        return stdin.read()
    except OSError as error:
        raise CniError(errors.IO_FAILURE, "stdin, which carries the network configuration, cannot be read",
                       errors.reason(error)) from error


def _decode(data: bytes) -> dict[str, Any]:
    try:
        body = loads(data)
    except (ValueError, RecursionError) as error:
        raise CniError(errors.UNDECODABLE, "the network configuration on stdin is not JSON", str(error)) from error
    if not isinstance(body, dict):
        raise CniError(errors.UNDECODABLE, "the network configuration on stdin is not a JSON object")
    return body


def _version(body: Mapping[str, Any], command: str) -> str:
    """Return the version to answer in; none given means 0.1.0 (libcni). Raises CniError 1."""
    version = body.get("cniVersion") or VERSIONS[0]
    if version not in VERSIONS:
        raise CniError(
            errors.INCOMPATIBLE_VERSION,
            f"cniVersion {version!r} is not supported",
            f"the configuration is of version {version!r}; supported are {', '.join(VERSIONS)}",
        )
    since = SINCE.get(command, VERSIONS[0])
    if VERSIONS.index(version) < VERSIONS.index(since):
        raise CniError(errors.INCOMPATIBLE_VERSION,
                       f"cniVersion {version} does not allow {command}, which came with {since}")
    return str(version)


def _refuse_own_netns(env: Mapping[str, str], world: World) -> None:
    """Raise CniError 8 when told to wire the very namespace the plugin runs in (rule P13)."""
    if env.get("CNI_NETNS_OVERRIDE", "").lower() in ("1", "true"):
        return
    if world.is_own_netns(env["CNI_NETNS"]):
        raise CniError(errors.INVALID_NETNS, f"CNI_NETNS {env['CNI_NETNS']} is the host's own network namespace; "
                                             "a pod needs one of its own")


def _fail(command: str, error: CniError, version: str, stdout: Sink | None) -> None:
    texts = {"msg": error.msg, "details": error.details}
    if command == "DEL":
        for words, instead in SWALLOWED:
            texts = {key: text.replace(words, instead) for key, text in texts.items()}
    body = {"cniVersion": version, "code": error.code, **{key: text for key, text in texts.items() if text}}
    _reply(body, stdout)


def _reply(body: Mapping[str, Any], stdout: Sink | None) -> bool:
    return _print(dumps(body) + b"\n", stdout)


def _print(data: bytes, stdout: Sink | None) -> bool:
    """Write to stdout; tell whether all of it was taken."""
    try:
        while data and stdout is not None and (written := stdout.write(data)):
            data = data[written:]
    except OSError:
        return False
    return not data


def _usage(plugin: Plugin) -> str:
    return (f"{plugin.name} {VERSION}: {plugin.about}\n"
            f"CNI versions: {', '.join(VERSIONS)}\n"
            "A container runtime runs it with CNI_COMMAND and a network configuration on stdin. By hand, for example:\n"
            f"  CNI_COMMAND=VERSION {plugin.name} </dev/null\n"
            f"  {plugin.name} -v    prints the version\n")
