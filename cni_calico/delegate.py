"""A foreign IPAM plugin, exec'd from CNI_PATH with the same standard input (CNI spec 1.1.0, section 4)."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
from functools import partial

from cni_calico.errors import DELEGATE, INVALID_ENVIRONMENT, CniError, reason
from cni_calico.log import stderr
from cni_calico.result import Result, from_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni_calico.skel import Call

SECONDS = 60  # below any runtime's own deadline (kubelet: 120 s)
PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def add(call: Call) -> Result:
    """Return the addresses the plugin assigns; where it fails it is run with DEL before the error is raised (A6)."""
    try:
        output = _run(call, "ADD")
        try:
            result = from_json(json.loads(output), call.conf.version)
        except ValueError as error:
            raise CniError(DELEGATE, f"IPAM plugin {call.conf.ipam.type} printed no CNI result", str(error)) from error
        if not result.ips:
            raise CniError(DELEGATE, f"IPAM plugin {call.conf.ipam.type} assigned no address")
    except CniError:
        undo(call)
        raise
    return result


def delete(call: Call) -> None:
    """Have the plugin release what the attachment holds; raises CniError."""
    _run(call, "DEL")


def undo(call: Call) -> None:
    """Release after a failed ADD; a failure of this too is for the log, the runtime's DEL will repeat it."""
    try:
        delete(call)
    except CniError as error:
        call.log.warning("IPAM DEL after a failed ADD failed too", msg=error.msg, details=error.details)


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
    try:
        return "1.1.0" in json.loads(_run(call, "VERSION"))["supportedVersions"]
    except (ValueError, KeyError, TypeError):
        return False


def _run(call: Call, command: str) -> bytes:
    """Run the plugin to its end and return what it printed; raises CniError with its own code and message."""
    name = call.conf.ipam.type
    path = _find(name, call.env.get("CNI_PATH", ""))
    env = {**call.env, "CNI_COMMAND": command}
    try:
        # Pipes of its own, and its death with ours: else it would hold the runtime's pipes, or go on after a SIGKILL
        # and undo the DEL that follows (rules P10, P11).
        done = subprocess.run([path], input=call.stdin, capture_output=True, env=env, timeout=SECONDS, check=False,
                              preexec_fn=partial(_die_with, os.getpid()))
    except subprocess.TimeoutExpired as error:
        message = f"IPAM plugin {name} did not answer {command} within {SECONDS} s and was ended"
        raise CniError(DELEGATE, message) from error
    except OSError as error:
        raise CniError(DELEGATE, f"IPAM plugin {path} cannot be run", reason(error)) from error
    stderr(done.stderr.decode(errors="replace"))
    if done.returncode:
        raise _error(name, command, done)
    return done.stdout


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
        body = json.loads(done.stdout)
        code, msg, details = int(body["code"]), str(body["msg"]), str(body.get("details") or "")
        return CniError(max(code, 0), f"IPAM plugin {name}: {msg}", details)
    except (ValueError, KeyError, TypeError):
        told = (done.stderr or done.stdout).decode(errors="replace").strip()
        message = f"IPAM plugin {name} failed {command} with exit status {done.returncode}"
        return CniError(DELEGATE, message, told[-2000:])


def _die_with(parent: int) -> None:
    """In the child: end when the parent does, also if it has ended before this ran (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
