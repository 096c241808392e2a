"""What install-cni makes of its flags and environment."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from install.errors import InstallError
from install.settings import ENVIRONMENT, Flags, Settings, resolve


def settled(flags: Flags | None = None, host: Path = Path("/nonexistent"), **environment: str) -> Settings:
    """Resolve with nothing mounted under /host unless said."""
    return resolve(flags or Flags(), environment, host_root=host)


def test_defaults_on_a_host() -> None:
    """Without flags and variables the places are the ones runtimes look at."""
    found = settled()
    assert found.layout.bin_dirs == (Path("/opt/cni/bin"),)
    assert found.layout.library == found.layout.host_library == Path("/opt/cni/lib/calico-cni")
    assert found.conflist == Path("/etc/cni/net.d/10-calico.conflist")
    assert found.datastore_dir == Path("/var/lib/calico/datastore")
    assert found.placeholders["LOG_FILE_PATH"] == "/var/log/calico/cni/cni.log"
    assert found.placeholders["KUBERNETES_NODE_NAME"] == socket.gethostname().strip().lower()
    assert (found.update, found.sleep, found.datastore_type) == (True, False, "file")


def test_prefix_moves_everything() -> None:
    """Beneath a prefix nothing of the machine itself is named."""
    found = settled(Flags(prefix="/srv/try"))
    assert found.layout.bin_dirs == (Path("/srv/try/opt/cni/bin"),)
    assert found.layout.library == Path("/srv/try/opt/cni/lib/calico-cni")
    assert found.conflist == Path("/srv/try/etc/cni/net.d/10-calico.conflist")
    assert found.datastore_dir == Path("/srv/try/var/lib/calico/datastore")
    assert found.placeholders["LOG_FILE_PATH"] == "/srv/try/var/log/calico/cni/cni.log"


def test_what_is_given_by_itself_beats_the_prefix() -> None:
    """A path of its own, by flag or variable, is not moved."""
    flags = Flags(prefix="/srv/try", bin_dir="/srv/bin")
    found = settled(flags, CNI_NET_DIR="/srv/net.d", CALICO_DATASTORE_DIR="/srv/store", LOG_FILE_PATH="/srv/log")
    assert found.layout.bin_dirs == (Path("/srv/bin"),)
    assert found.layout.conf_dir == Path("/srv/net.d")
    assert found.datastore_dir == Path("/srv/store")
    assert found.placeholders["LOG_FILE_PATH"] == "/srv/log"


def test_flags_beat_the_environment() -> None:
    """--conf-dir and --python win over CNI_NET_DIR and CALICO_PYTHON."""
    flags = Flags(conf_dir="/srv/flag", python="/usr/bin/flag")
    found = settled(flags, CNI_NET_DIR="/srv/variable", CALICO_PYTHON="/usr/bin/variable")
    assert found.layout.conf_dir == Path("/srv/flag")
    assert found.python == "/usr/bin/flag"


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written into files must hold from any working directory."""
    monkeypatch.chdir(tmp_path)
    assert settled(Flags(prefix="x/../try")).layout.bin_dirs == (tmp_path / "try/opt/cni/bin",)


def test_container_writes_to_the_mounts_and_names_the_host_paths(tmp_path: Path) -> None:
    """In Calico's container layout files land in the mounts, and say what the host calls them."""
    for name in ("opt/cni/bin", "secondary-bin-dir"):
        (tmp_path / name).mkdir(parents=True)
    found = settled(host=tmp_path, CNI_NET_DIR="/etc/other/net.d")
    assert found.layout.bin_dirs == (tmp_path / "opt/cni/bin", tmp_path / "secondary-bin-dir")
    assert found.layout.library == tmp_path / "opt/cni/lib/calico-cni"
    assert found.layout.host_library == Path("/opt/cni/lib/calico-cni")
    assert found.layout.conf_dir == tmp_path / "etc/cni/net.d"
    assert found.placeholders["KUBECONFIG_FILEPATH"] == "/etc/other/net.d/calico-kubeconfig"
    assert found.datastore_dir == Path("/var/lib/calico/datastore")
    assert found.sleep


def test_prefix_is_no_container(tmp_path: Path) -> None:
    """A prefix or bin directory of one's own is obeyed in a container, too."""
    (tmp_path / "opt/cni/bin").mkdir(parents=True)
    assert settled(Flags(prefix="/srv/try"), host=tmp_path).layout.bin_dirs == (Path("/srv/try/opt/cni/bin"),)
    assert settled(Flags(bin_dir="/srv/bin"), host=tmp_path).layout.bin_dirs == (Path("/srv/bin"),)


def test_node_name_order() -> None:
    """KUBERNETES_NODE_NAME, NODENAME, host name."""
    assert settled(KUBERNETES_NODE_NAME="One", NODENAME="two").placeholders["KUBERNETES_NODE_NAME"] == "One"
    assert settled(KUBERNETES_NODE_NAME="", NODENAME=" two ").placeholders["KUBERNETES_NODE_NAME"] == "two"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CNI_MTU", "-1"),
        ("CNI_MTU", '1500, "x": 1'),
        ("CNI_MTU", "70000"),
        ("CNI_MTU", "\u0661\u0665"),
        ("LOG_FILE_MAX_SIZE", "100MB"),
        ("UPDATE_CNI_BINARIES", "maybe"),
        ("REQUIRE_MTU_FILE", "2"),
        ("SLEEP", "forever"),
        ("DATASTORE_TYPE", "etcd"),
        ("CNI_CONF_NAME", "../10-calico.conflist"),
        ("CNI_CONF_NAME", "10-calico.conf"),
        ("CNI_OLD_CONF_NAME", "/etc/passwd"),
        ("CNI_OLD_CONF_NAME", ".."),
    ],
)
def test_bad_value_is_named(variable: str, value: str) -> None:
    """The error says which variable and what it held."""
    with pytest.raises(InstallError, match=variable) as caught:
        resolve(Flags(), {variable: value}, host_root=Path("/nonexistent"))
    assert repr(value) in str(caught.value)


def test_every_variable_is_documented() -> None:
    """The page about the command has every variable of the help text, with its default."""
    page = (Path(__file__).parents[2] / "docs/install-cni.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name, default, _ in ENVIRONMENT:
        row = next((row for row in rows if row.startswith(f"| `{name}`")), "")
        assert default.strip("()") in row, name
        assert row, name
