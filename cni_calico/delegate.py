"""A foreign IPAM plugin, exec'd from CNI_PATH with the same standard input (CNI spec 1.1.0, section 4)."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from functools import partial

from cni_calico.errors import DELEGATE, INVALID_ENVIRONMENT, CniError, reason
from cni_calico.log import stderr
from cni_calico.result import Result, from_json
from datastore.jsontext import loads
from ipam.cidr import parse_network
from ipam.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni_calico.skel import Call

SECONDS = 60  # below any runtime's own deadline (kubelet: 120 s)
PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def add(call: Call) -> Result:
    """Return the addresses the plugin assigns; raises CniError. Also then it is to be run with DEL (rule A6)."""
    output = _run(call, "ADD")
    try:
        result = from_json(loads(output), call.conf.version)
        given = [(parse_network(ip.address), ip.bare) for ip in result.ips]
        for route in result.routes:
            parse_network(route.dst)
    except (ValueError, RecursionError, BadRequest) as error:
        raise CniError(DELEGATE, f"IPAM plugin {call.conf.ipam.type} printed no CNI result", str(error)) from error
    if not given or len({bare for _, bare in given}) < len(given):
        what = "an address twice" if given else "no address"
        raise CniError(DELEGATE, f"IPAM plugin {call.conf.ipam.type} assigned {what}")
    return result


def delete(call: Call) -> None:
    """Have the plugin release what the attachment holds; raises CniError."""
    _run(call, "DEL")


def check(call: Call) -> None:
    """Have the plugin check its reservation; raises CniError."""
    _run(call, "CHECK")


def collect(call: Call) -> None:
    """Forward GC (rule G4) to a plugin that knows it (T5)."""
    if _knows_1_1(call):
        _run(call, "GC")


def status(call: Call) -> None:
    """Forward STATUS to a plugin that knows it: one that does not has no opinion (rule T5). Raises CniError."""
    if _knows_1_1(call):
        _run(call, "STATUS")


def _knows_1_1(call: Call) -> bool:
    """Ask for the plugin's versions; one that answers with an error is old. Raises CniError if it cannot be run."""
    try:
        return "1.1.0" in loads(_exec(call, "VERSION").stdout)["supportedVersions"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _run(call: Call, command: str) -> bytes:
    """Run the plugin and return what it printed; raises CniError with its own code and message if it fails."""
    done = _exec(call, command)
    stderr(done.stderr.decode(errors="replace"))
    if done.returncode:
        raise _error(call.conf.ipam.type, command, done)
    return done.stdout


def _exec(call: Call, command: str) -> subprocess.CompletedProcess[bytes]:
    """Run the plugin to its end; raises CniError when it cannot be run."""
    name = call.conf.ipam.type
    path = _find(name, call.env.get("CNI_PATH", ""))
    # A plugin that knows none of an orchestrator's arguments is to pass over them, as Calico has it.
    arguments = ";".join(filter(None, ("IgnoreUnknown=1", call.env.get("CNI_ARGS"))))
    env = {**call.env, "CNI_COMMAND": command, "CNI_ARGS": arguments}
    try:
        # Pipes of its own, and its death with ours: else it would hold the runtime's pipes, or go on after a SIGKILL
        # and undo the DEL that follows (rules P10, P11).
        return subprocess.run([path], input=call.stdin, capture_output=True, env=env, timeout=SECONDS, check=False,
                              preexec_fn=partial(_die_with, os.getpid()))
    except subprocess.TimeoutExpired as error:
        message = f"IPAM plugin {name} did not answer {command} within {SECONDS} s and was ended"
        raise CniError(DELEGATE, message) from error
    except OSError as error:
        raise CniError(DELEGATE, f"IPAM plugin {path} cannot be run", reason(error)) from error

def _find(name: str, path: str) -> str:
    if not path:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_PATH is missing: it must say where the IPAM plugin {name} is")
    for folder in path.split(":"):
        candidate = os.path.join(folder, name)
        if folder and os.path.isfile(candidate):
            return candidate
    raise CniError(DELEGATE, f'no executable "{name}" is in CNI_PATH {path}; install it, or change ipam.type')


def _error(name: str, command: str, done: subprocess.CompletedProcess[bytes]) -> CniError:
    try:
        body = loads(done.stdout)
        code, msg, details = int(body["code"]), str(body["msg"]), str(body.get("details") or "")
        return CniError(code if 0 < code < 2**32 else DELEGATE, f"IPAM plugin {name}: {msg}", details)
    except (ValueError, KeyError, TypeError, RecursionError):
        told = (done.stderr or done.stdout).decode(errors="replace").strip()
        message = f"IPAM plugin {name} failed {command} with exit status {done.returncode}"
        return CniError(DELEGATE, message, told[-2000:])


def _die_with(parent: int) -> None:
    """In the child: end when the parent does, also if it has ended before this ran (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
