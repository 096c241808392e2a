"""What an installation is told: the command's flags and Calico's environment variables, as one frozen value.

Every default is here. A flag beats the environment; a path given by itself (flag or variable) beats `--prefix`.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import launcher
from datastore.settings import ETCD, FILE, PLACES, Etcd, in_environment
from install import etcd, interpreter
from install.errors import InstallError
from install.files import is_writable

if TYPE_CHECKING:
    from collections.abc import Mapping

HOST_ROOT = Path("/host")  # where Calico's container images mount the host's directories
PLUGIN_SOURCES = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))  # Debian's package; upstream's archive
ASSETS_DIR = "/calico-secrets"  # where Calico's manifests mount them
BIN_DIR, NET_DIR = "opt/cni/bin", "etc/cni/net.d"
DATASTORE_DIR, LOG_FILE = "var/lib/calico/datastore", "var/log/calico/cni/cni.log"
LOCK_FILE = "var/run/calico/ipam.lock"
SEED_SECONDS = 20.0  # how long a datastore that does not answer is waited for
LAUNCHER_CHOICES = ("auto", "no")
DATASTORE_TYPES = ("file", "etcdv3", "kubernetes")
LARGEST_MTU = 65535
LARGEST_LIMIT = 1_000_000
FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
TRUE, FALSE = frozenset({"1", "t", "true"}), frozenset({"0", "f", "false"})  # Go's strconv.ParseBool, as in Calico

ENVIRONMENT = (
    ("CNI_NET_DIR", "/etc/cni/net.d", "directory of network configurations, as the host sees it"),
    ("CNI_CONF_NAME", "10-calico.conflist", "file name of the configuration written there"),
    ("CNI_OLD_CONF_NAME", "10-calico.conflist", "removed when it differs from CNI_CONF_NAME"),
    ("CNI_NETWORK_CONFIG", "(built in)", "the template itself, as JSON with __PLACEHOLDERS__"),
    ("CNI_NETWORK_CONFIG_FILE", "", "a file with the template; beats CNI_NETWORK_CONFIG"),
    ("CNI_MTU", "0", "MTU of the pods' interfaces in bytes; 0 = automatic"),
    ("REQUIRE_MTU_FILE", "false", "value of __REQUIRE_MTU_FILE__"),
    ("SKIP_CNI_BINARIES", "", "comma list of chained executables not to copy"),
    ("UPDATE_CNI_BINARIES", "true", "false: keep the executables that are there"),
    ("CALICO_PYTHON", "(the one running)", "absolute path of the interpreter that runs the plugin"),
    ("CALICO_LAUNCHER", "auto", "auto: the native launcher before the plugin if there is one; no: never"),
    ("DATASTORE_TYPE", "file", "file, etcdv3 (the default where ETCD_ENDPOINTS is set) or kubernetes"),
    ("CALICO_DATASTORE_DIR", "/var/lib/calico/datastore", "directory of the file datastore"),
    ("ETCD_ENDPOINTS", "http://127.0.0.1:2379", "URLs of etcd, with commas between several"),
    ("ETCD_DISCOVERY_SRV", "", "a domain whose SRV records name etcd's servers instead"),
    ("ETCD_USERNAME", "", "name at etcd; ETCD_PASSWORD goes with it into the configuration"),
    ("ETCD_CA_CERT_FILE", "", "PEM file to copy to the host; likewise ETCD_CERT_FILE, ETCD_KEY_FILE"),
    ("TLS_ASSETS_DIR", "/calico-secrets", "folder with etcd-ca, etcd-cert and etcd-key, copied likewise"),
    ("CALICO_IPV4POOL_CIDR", "192.168.0.0/16", "pool created when there is none; likewise _BLOCK_SIZE, _IPIP …"),
    ("KUBERNETES_NODE_NAME", "(NODENAME, else host name)", "name of this node"),
    ("LOG_LEVEL", "info", "the plugin's log level"),
    ("LOG_FILE_PATH", "/var/log/calico/cni/cni.log", "the plugin's log file"),
    ("LOG_FILE_MAX_SIZE", "100", "megabytes before it is rotated"),
    ("LOG_FILE_MAX_AGE", "30", "days that rotated files are kept"),
    ("LOG_FILE_MAX_COUNT", "10", "number of rotated files kept"),
    ("SLEEP", "false (container: true)", "true: stay alive after the work until SIGTERM or SIGINT"),
)

# Placeholders of Calico's own templates that nothing of ours uses: what the environment says, else this.
FOREIGN_PLACEHOLDERS = {
    "KUBERNETES_SERVICE_HOST": "",
    "KUBERNETES_SERVICE_PORT": "",
    "SERVICEACCOUNT_TOKEN": "",
    "CALICO_API_GROUP": "crd.projectcalico.org/v1",
}


@dataclass(frozen=True)
class Flags:
    """What the command line said; None where it said nothing."""

    bin_dir: str | None = None
    conf_dir: str | None = None
    prefix: str | None = None
    python: str | None = None
    launcher: str | None = None


@dataclass(frozen=True)
class Layout:
    """Where this process writes, and (`host_…`) how the host that will run the plugin sees the same places."""

    bin_dirs: tuple[Path, ...]
    conf_dir: Path
    library: Path
    host_library: Path
    host_conf_dir: str
    root: Path
    container: bool


@dataclass(frozen=True)
class Settings:
    """Everything an installation depends on; the values of ENVIRONMENT, checked. etcd: None on other datastores."""

    layout: Layout
    conf_name: str
    old_conf_name: str
    network_config: str | None
    network_config_file: Path | None
    skip: frozenset[str]
    update: bool
    sleep: bool
    python: str
    launcher: Path | None
    datastore_type: str
    datastore_dir: Path
    etcd: Etcd | None
    placeholders: Mapping[str, str | int | bool]
    environment: Mapping[str, str]
    plugin_sources: tuple[Path, ...] = PLUGIN_SOURCES
    seed_seconds: float = SEED_SECONDS

    @property
    def conflist(self) -> Path:
        """The network configuration that is written."""
        return self.layout.conf_dir / self.conf_name

    @property
    def tls_folder(self) -> Path:
        """Where the files of TLS are copied to."""
        return self.layout.conf_dir / etcd.FOLDER


def resolve(flags: Flags, environment: Mapping[str, str], host_root: Path = HOST_ROOT) -> Settings:
    """Return the settings of this run; a variable that is set but empty counts as unset. Raises InstallError."""
    env = {name: value for name, value in environment.items() if value}
    layout = _layout(flags, env, host_root)
    datastore_dir = _absolute(env.get("CALICO_DATASTORE_DIR") or layout.root / DATASTORE_DIR)
    meant = ETCD if any(in_environment(name) in env for name in PLACES) else FILE
    datastore_type = env.get("DATASTORE_TYPE", meant)
    if datastore_type not in DATASTORE_TYPES:
        raise InstallError(f"DATASTORE_TYPE={datastore_type!r} is not one of {', '.join(DATASTORE_TYPES)}")
    reached = etcd.resolve(env, _absolute(env.get("TLS_ASSETS_DIR", ASSETS_DIR))) if datastore_type == ETCD else None
    file = env.get("CNI_NETWORK_CONFIG_FILE")
    return Settings(
        layout=layout,
        conf_name=_conf_name(env, "CNI_CONF_NAME"),
        old_conf_name=_conf_name(env, "CNI_OLD_CONF_NAME"),
        network_config=env.get("CNI_NETWORK_CONFIG"),
        network_config_file=Path(file) if file else None,
        skip=frozenset(name.strip() for name in env.get("SKIP_CNI_BINARIES", "").split(",")),
        update=_boolean(env, "UPDATE_CNI_BINARIES", default=True),
        sleep=_boolean(env, "SLEEP", default=layout.container),
        python=flags.python or env.get("CALICO_PYTHON") or interpreter.default_path(),
        launcher=_launcher(flags.launcher or env.get("CALICO_LAUNCHER", "auto")),
        datastore_type=datastore_type,
        datastore_dir=datastore_dir,
        etcd=reached,
        placeholders=_placeholders(env, layout, datastore_type, datastore_dir, reached),
        environment=dict(environment),
    )


def _layout(flags: Flags, env: Mapping[str, str], host_root: Path) -> Layout:
    """Return the directories: beneath `--prefix`, or the host's mounted into a container, or this machine's own."""
    root = _absolute(flags.prefix or "/")
    container = not flags.prefix and not flags.bin_dir and (host_root / BIN_DIR).is_dir()
    if container:
        secondary = host_root / "secondary-bin-dir"
        bin_dirs = (host_root / BIN_DIR, *([secondary] if secondary.is_dir() and is_writable(secondary) else []))
        conf_dir = _absolute(flags.conf_dir or host_root / NET_DIR)
        host_bin_dir, host_conf_dir = root / BIN_DIR, Path(env.get("CNI_NET_DIR") or root / NET_DIR)
    else:
        bin_dirs = (_absolute(flags.bin_dir or root / BIN_DIR),)
        conf_dir = _absolute(flags.conf_dir or env.get("CNI_NET_DIR") or root / NET_DIR)
        host_bin_dir, host_conf_dir = bin_dirs[0], conf_dir
    library, host_library = (path.parent / "lib" / "calico-cni" for path in (bin_dirs[0], host_bin_dir))
    return Layout(bin_dirs, conf_dir, library, host_library, str(host_conf_dir), root, container)


def _placeholders(
    env: Mapping[str, str], layout: Layout, datastore_type: str, datastore_dir: Path, reached: Etcd | None
) -> dict[str, str | int | bool]:
    return {
        **{name: env.get(name, default) for name, default in FOREIGN_PLACEHOLDERS.items()},
        "KUBECONFIG_FILEPATH": f"{layout.host_conf_dir}/calico-kubeconfig",
        "LOG_LEVEL": env.get("LOG_LEVEL", "info"),
        "LOG_FILE_PATH": env.get("LOG_FILE_PATH") or str(layout.root / LOG_FILE),
        "LOG_FILE_MAX_SIZE": _number(env, "LOG_FILE_MAX_SIZE", 100, LARGEST_LIMIT),
        "LOG_FILE_MAX_AGE": _number(env, "LOG_FILE_MAX_AGE", 30, LARGEST_LIMIT),
        "LOG_FILE_MAX_COUNT": _number(env, "LOG_FILE_MAX_COUNT", 10, LARGEST_LIMIT),
        "DATASTORE_TYPE": datastore_type,
        "DATASTORE_DIR": str(datastore_dir) if not reached else "",
        "IPAM_LOCK_FILE": env.get("CALICO_IPAM_LOCK_FILE", str(layout.root / LOCK_FILE)) if reached else "",
        **etcd.placeholders(reached, f"{layout.host_conf_dir}/{etcd.FOLDER}"),
        "KUBERNETES_NODE_NAME": _node_name(env),
        "CNI_MTU": _number(env, "CNI_MTU", 0, LARGEST_MTU),
        "REQUIRE_MTU_FILE": _boolean(env, "REQUIRE_MTU_FILE", default=False),
    }


def _launcher(choice: str) -> Path | None:
    """Return where the launcher for this machine would be, None when none is wanted."""
    if choice not in LAUNCHER_CHOICES:
        raise InstallError(f"CALICO_LAUNCHER={choice!r} is not one of {', '.join(LAUNCHER_CHOICES)}")
    return launcher.binary() if choice == "auto" else None


def _node_name(env: Mapping[str, str]) -> str:
    named = env.get("KUBERNETES_NODE_NAME") or env.get("NODENAME") or ""
    return named.strip() or socket.gethostname().strip().lower()


def _conf_name(env: Mapping[str, str], variable: str) -> str:
    """Return a plain file name; the new configuration's ends in .conflist, as runtimes demand of a plugin list."""
    name = env.get(variable, "10-calico.conflist")
    if not FILE_NAME.fullmatch(name):
        raise InstallError(f"{variable}={name!r} is not a plain file name: give a name such as 10-calico.conflist")
    if variable == "CNI_CONF_NAME" and not name.endswith(".conflist"):
        raise InstallError(f"{variable}={name!r} must end in .conflist, or runtimes would not read it as a plugin list")
    return name


def _boolean(env: Mapping[str, str], variable: str, *, default: bool) -> bool:
    text = env.get(variable, str(default)).strip()
    if text.lower() not in TRUE | FALSE:
        raise InstallError(f"{variable}={text!r} is neither true nor false")
    return text.lower() in TRUE


def _number(env: Mapping[str, str], variable: str, default: int, largest: int) -> int:
    text = env.get(variable, str(default)).strip()
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > largest:
        raise InstallError(f"{variable}={text!r} is not a whole number from 0 to {largest}")
    return int(text)


def _absolute(path: str | Path) -> Path:
    """Return the path from the root without `..`; symbolic links stay, because what is beside a link may be meant."""
    return Path(os.path.normpath(Path(path).absolute()))
