"""What the node says of itself: its name, the MTU its agent found out, and which boot it is in."""

from __future__ import annotations

import os

from cni_calico.errors import INVALID_CONFIG, CniError
from datastore.disk import read_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni_calico.config import NetConf

MTU_FILE = "/var/lib/calico/mtu"
MTU_LIMITS = (68, 65535)  # RFC 791; include/uapi/linux/if_ether.h ETH_MAX_MTU
BOOT_ID = "/proc/sys/kernel/random/boot_id"


def name(conf: NetConf) -> str:
    """Return the node's name: `nodename`, else the nodename file's content, else the host's name (Calico's order).

    Raises CniError 7 when there is no file and the host's name may not stand in for it.
    """
    found = conf.nodename
    if not found:
        try:
            found = _read(conf.nodename_file)
        except (OSError, ValueError) as error:
            if not conf.nodename_file_optional:
                raise CniError(
                    INVALID_CONFIG,
                    f"the node has no name: {conf.nodename_file!r} cannot be read; start calico-node, which writes it, "
                    f'or set "nodename", or set "nodename_file_optional" to use the host\'s name',
                    str(error),
                ) from error
    found = found or os.uname().nodename.strip().lower()
    if not found or "/" in found or not found.isprintable():
        raise CniError(INVALID_CONFIG, f"node name {found!r} is invalid: it must be printable and have no '/'")
    return found


def mtu(conf: NetConf) -> int:
    """Return the MTU for the pod's interface, or 0 to leave the kernel's: `mtu`, else what the agent found out."""
    if conf.mtu:
        return conf.mtu
    try:
        return check_mtu(int(_read(MTU_FILE)))
    except (OSError, ValueError) as error:
        if conf.require_mtu_file or not isinstance(error, FileNotFoundError):
            raise CniError(
                INVALID_CONFIG, f'{MTU_FILE} has no MTU ({error}); start calico-node, which writes it, or set "mtu"'
            ) from error
        return 0


def check_mtu(value: int) -> int:
    """Return an MTU that a link can have; raises CniError 7."""
    low, high = MTU_LIMITS
    if not low <= value <= high:
        raise CniError(INVALID_CONFIG, f"MTU {value} is out of range: expected {low} to {high}, or 0 for automatic")
    return value


def boot_id() -> str:
    """Return what tells this boot from any other, empty where the kernel does not say (proc_sys_kernel(5))."""
    try:
        return _read(BOOT_ID)
    except OSError:
        return ""


def _read(path: str) -> str:
    return read_all(path).decode().strip()
