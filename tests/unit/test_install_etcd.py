"""install-cni for etcd: settings, the files of TLS, seeding, and what is refused before anything is written."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datastore import cluster, open_store
from install import files, settings, tree
from install.errors import InstallError
from tests.etcd import Cluster, free_port, serving

from .install_kit import UNSHARE, Machine, can_mount, install_cni, snapshot
from .pem_kit import LOOPBACK, SERVER, Authority, Pair, running

NOBODY = f"http://127.0.0.1:{free_port()}"
CALICOS_TEMPLATE = """{
  "name": "k8s-pod-network", "cniVersion": "0.3.1",
  "plugins": [
    {"type": "calico", "log_level": "info", "etcd_endpoints": "__ETCD_ENDPOINTS__",
     "etcd_key_file": "__ETCD_KEY_FILE__", "etcd_cert_file": "__ETCD_CERT_FILE__",
     "etcd_ca_cert_file": "__ETCD_CA_CERT_FILE__", "mtu": __CNI_MTU__, "ipam": {"type": "calico-ipam"},
     "policy": {"type": "k8s"}, "kubernetes": {"kubeconfig": "__KUBECONFIG_FILEPATH__"}}
  ]
}"""  # as in Calico's manifest for etcd, which leaves datastore_type and DATASTORE_TYPE out


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("etcd")) as found:
        yield found


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(ca: Authority) -> Pair:
    return ca.issue("client")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """An empty prefix, for an etcd that nobody serves."""
    found = Machine(tmp_path)
    found.environment |= {"ETCD_ENDPOINTS": NOBODY, "TLS_ASSETS_DIR": str(tmp_path / "assets")}
    return found


@pytest.fixture
def assets(machine: Machine, ca: Authority, pair: Pair) -> Path:
    """The folder of TLS files, as Calico's manifests mount it."""
    folder = machine.root / "assets"
    folder.mkdir()
    for name, source in (("etcd-ca", ca.cert), ("etcd-cert", pair.cert), ("etcd-key", pair.key)):
        shutil.copy(source, folder / name)
    return folder


def calico(machine: Machine) -> dict[str, Any]:
    """Our plugin's part of the installed configuration."""
    part: dict[str, Any] = machine.network()["plugins"][0]
    return part


def about_datastore(plugin: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that say where the datastore is, and who uses it."""
    wanted = ("etcd", "datastore", "ipam_lock", "nodename")
    return {key: value for key, value in plugin.items() if key.startswith(wanted)}


def copied(machine: Machine) -> dict[str, bytes]:
    """What is in the folder of the host's copies."""
    return {path.name: path.read_bytes() for path in machine.settings.tls_folder.iterdir()}


def done(machine: Machine, verb: str) -> list[str]:
    return [Path(action.subject).name for action in machine.install().actions if action.verb == verb]


def left(machine: Machine) -> list[str]:
    """What is in the directory of the configuration."""
    return sorted(path.name for path in machine.conflist.parent.iterdir())


def test_configuration(machine: Machine) -> None:
    """What is told is there, and nothing that is empty; the node has a name, and the lock is beneath the prefix."""
    machine.environment |= {"ETCD_ENDPOINTS": f" {NOBODY}/,http://a", "ETCD_USERNAME": "u",
                            "ETCD_PASSWORD": 'p"\\\u00e9'}
    machine.install()
    assert about_datastore(calico(machine)) == {
        "datastore_type": "etcdv3",
        "etcd_endpoints": f"{NOBODY},http://a:2379",
        "etcd_username": "u",
        "etcd_password": 'p"\\\u00e9',
        "ipam_lock_file": f"{machine.prefix}/var/run/calico/ipam.lock",
        "nodename": "node-1",
    }
    assert stat.S_IMODE(machine.conflist.stat().st_mode) == 0o600


@pytest.mark.parametrize(("environment", "told"), [
    ({"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": ""}, {"etcd_endpoints": "http://127.0.0.1:2379"}),
    ({"ETCD_ENDPOINTS": "", "ETCD_AUTHORITY": "a:1", "ETCD_SCHEME": "https"}, {"etcd_endpoints": "https://a:1"}),
    ({"ETCD_ENDPOINTS": "", "ETCD_DISCOVERY_SRV": "example.com"}, {"etcd_discovery_srv": "example.com"}),
])
def test_ways_to_name_servers(machine: Machine, environment: dict[str, str], told: dict[str, str]) -> None:
    """What is named means etcd, unless another datastore is asked for."""
    machine.environment |= environment | {"CALICO_IPAM_LOCK_FILE": "/l"}
    plugin = json.loads(machine.plan().conflist.content)["plugins"][0]
    assert about_datastore(plugin) == {"datastore_type": "etcdv3", **told, "ipam_lock_file": "/l", "nodename": "node-1"}


def test_file_datastore_is_not_bothered(machine: Machine, assets: Path) -> None:
    """With DATASTORE_TYPE=file neither settings nor files of etcd's matter, not even wrong ones."""
    machine.environment |= {"DATASTORE_TYPE": "file", "ETCD_ENDPOINTS": "nonsense", "ETCD_KEY_FILE": "/nonexistent"}
    report = machine.install()
    assert report.warnings == []
    assert about_datastore(calico(machine)) == {"datastore_type": "file", "nodename": "node-1",
                                                "datastore_dir": str(machine.settings.datastore_dir)}
    assert left(machine) == [machine.conflist.name]


def test_calicos_own_template(machine: Machine, assets: Path) -> None:
    """Calico's manifest for etcd, with its secrets, does."""
    machine.environment["CNI_NETWORK_CONFIG"] = CALICOS_TEMPLATE
    machine.install()
    folder = machine.settings.tls_folder
    assert about_datastore(calico(machine)) == {
        "etcd_endpoints": NOBODY, "etcd_key_file": f"{folder}/etcd-key", "etcd_cert_file": f"{folder}/etcd-cert",
        "etcd_ca_cert_file": f"{folder}/etcd-ca"}


def test_assets_are_copied(machine: Machine, assets: Path, ca: Authority, pair: Pair) -> None:
    """All for root alone, whatever the umask and the modes of the originals."""
    (assets / "unrelated").write_text("stays")
    before = os.umask(0)
    try:
        report = machine.install()
    finally:
        os.umask(before)
    folder = machine.settings.tls_folder
    assert copied(machine) == {"etcd-ca": ca.cert.read_bytes(), "etcd-cert": pair.cert.read_bytes(),
                               "etcd-key": pair.key.read_bytes()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    installed = [Path(action.subject).name for action in report.actions if action.verb == "install"]
    assert installed[-2:] == ["calico-tls", "10-calico.conflist"]
    assert left(machine) == ["10-calico.conflist", "calico-tls"]


def test_a_container_names_the_hosts_path(machine: Machine, assets: Path) -> None:
    """The files go into the mount, and the configuration says where the host sees them."""
    (machine.root / "host/opt/cni/bin").mkdir(parents=True)
    machine.flags = settings.Flags()
    machine.environment["CNI_NET_DIR"] = "/etc/other/net.d"
    machine.install()
    assert calico(machine)["etcd_key_file"] == "/etc/other/net.d/calico-tls/etcd-key"
    assert (machine.root / "host/etc/cni/net.d/calico-tls/etcd-key").is_file()


def test_files_and_texts(machine: Machine, ca: Authority, pair: Pair) -> None:
    """Files by their paths and texts in the environment end as the same copies, and beat the assets."""
    machine.environment |= {"ETCD_CA_CERT_FILE": str(ca.cert), "ETCD_CERT_FILE": str(pair.cert),
                            "ETCD_KEY": pair.key.read_text()}
    machine.install()
    assert copied(machine)["etcd-key"] == pair.key.read_bytes()
    plugin = calico(machine)
    assert "etcd_key" not in plugin
    assert plugin["etcd_key_file"] == f"{machine.settings.tls_folder}/etcd-key"


def test_again_changes_nothing(machine: Machine, assets: Path) -> None:
    machine.install()
    before = snapshot(machine.prefix)
    assert {action.verb for action in machine.install().actions} == {"unchanged"}
    assert snapshot(machine.prefix) == before


def test_new_certificates(machine: Machine, assets: Path, ca: Authority) -> None:
    """The folder is exchanged whole: who has the old one open goes on reading it."""
    machine.install()
    folder = machine.settings.tls_folder
    held = os.open(folder, os.O_RDONLY)
    old, new = copied(machine), ca.issue("renewed")
    shutil.copy(new.cert, assets / "etcd-cert")
    shutil.copy(new.key, assets / "etcd-key")
    (folder / "strange").write_text("")
    assert done(machine, "install") == ["calico-tls"]
    assert copied(machine) == {"etcd-ca": old["etcd-ca"], "etcd-cert": new.cert.read_bytes(),
                               "etcd-key": new.key.read_bytes()}
    assert os.listdir(held) == []
    os.close(held)
    assert left(machine) == ["10-calico.conflist", "calico-tls"]


@pytest.mark.parametrize("spoil", [
    lambda folder: (folder / "etcd-key").chmod(0o644),
    lambda folder: (folder / "etcd-cert").unlink(),
    lambda folder: folder.chmod(0o755),
    lambda folder: folder.rename(folder.with_name("x")).with_name("calico-tls").symlink_to("x"),
    lambda folder: folder.rename(folder.with_name("x")).with_name("calico-tls").write_text("a file"),
    lambda folder: shutil.copytree(folder, folder.with_name(".calico-tls.tmp")),
])
def test_what_differs_is_put_right(machine: Machine, assets: Path, spoil: Any) -> None:
    """Modes, missing files, things of another kind at the place, and what a killed run left."""
    machine.install()
    folder, good = machine.settings.tls_folder, copied(machine)
    spoil(folder)
    assert done(machine, "install") == ["calico-tls"]
    assert copied(machine) == good
    assert not folder.is_symlink()
    assert not list(folder.parent.glob(".*"))


def test_file_system_that_cannot_exchange(machine: Machine, assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS: the old folder goes first."""
    machine.install()
    (assets / "etcd-ca").write_bytes(2 * (assets / "etcd-ca").read_bytes())
    monkeypatch.setattr(files, "RENAME_EXCHANGE", 1 << 31)
    assert done(machine, "install") == ["calico-tls"]
    assert copied(machine)["etcd-ca"] == (assets / "etcd-ca").read_bytes()
    assert left(machine) == ["10-calico.conflist", "calico-tls"]


def test_without_certificates_any_more(machine: Machine, assets: Path) -> None:
    """The copies go once no configuration names them."""
    machine.install()
    shutil.rmtree(assets)
    assert done(machine, "remove") == ["calico-tls"]
    assert left(machine) == ["10-calico.conflist"]
    assert "etcd_key_file" not in calico(machine)


def test_uninstall(machine: Machine, assets: Path) -> None:
    """The configuration, then its files; a half-written folder, too."""
    machine.install()
    shutil.copytree(machine.settings.tls_folder, machine.conflist.parent / ".calico-tls.tmp")
    dry = machine.uninstall(dry_run=True)
    assert machine.settings.tls_folder.is_dir()
    report = machine.uninstall()
    assert report.actions == dry.actions
    assert [Path(action.subject).name for action in report.actions[:2]] == ["10-calico.conflist", "calico-tls"]
    assert left(machine) == []
    assert [action for action in machine.uninstall().actions if action.verb == "remove"] == []


def test_uninstall_keeps_what_belongs_to_foreign_executables(machine: Machine, assets: Path) -> None:
    machine.install()
    (machine.bin_dir / "calico").write_bytes(b"\x7fELF" + bytes(100_000))
    machine.uninstall()
    assert left(machine) == ["10-calico.conflist", "calico-tls"]


def test_uninstall_does_not_need_the_certificates(machine: Machine, assets: Path) -> None:
    machine.install()
    (assets / "etcd-key").write_text("garbage")
    machine.uninstall()
    assert left(machine) == []


@pytest.mark.parametrize(("environment", "message"), [
    ({"ETCD_ENDPOINTS": "10.0.0.1:2379"}, "ETCD_ENDPOINTS has '10.0.0.1:2379': expected e.g. https://10.0.0.1:2379"),
    ({"ETCD_DISCOVERY_SRV": "a"}, "ETCD_DISCOVERY_SRV and ETCD_ENDPOINTS are both set"),
    ({"ETCD_PASSWORD": "secret"}, "ETCD_PASSWORD is set without ETCD_USERNAME"),
    ({"ETCD_CA_CERT_FILE": "ca.pem"}, "ETCD_CA_CERT_FILE is 'ca.pem': expected an absolute path"),
    ({"ETCD_CA_CERT_FILE": "/nonexistent"}, "cannot read ETCD_CA_CERT_FILE /nonexistent: No such file or directory"),
    ({"ETCD_CERT_FILE": "/a"}, "ETCD_CERT_FILE is set without ETCD_KEY_FILE"),
    ({"ETCD_CA_CERT": "nonsense"}, "CA certificate in the settings cannot be used"),
])
def test_bad_settings(machine: Machine, environment: dict[str, str], message: str) -> None:
    """The variable is named, and nothing is written."""
    machine.environment |= environment
    with pytest.raises(InstallError) as caught:
        machine.install()
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not machine.prefix.exists()


def test_certificate_without_its_key(machine: Machine, assets: Path) -> None:
    """Among the assets files are named, not variables."""
    (assets / "etcd-key").unlink()
    with pytest.raises(InstallError, match=f"^{assets}/etcd-cert is set without {assets}/etcd-key;"):
        machine.install()


def test_key_of_another_certificate(machine: Machine, assets: Path, ca: Authority) -> None:
    """What every pod would stumble over is refused now, and what was there stays."""
    machine.install()
    before = snapshot(machine.prefix)
    shutil.copy(ca.issue("other").key, assets / "etcd-key")
    with pytest.raises(InstallError, match=f"certificate {assets}/etcd-cert with key {assets}/etcd-key cannot be used"):
        machine.install()
    assert snapshot(machine.prefix) == before


def test_no_room_for_the_files(machine: Machine, assets: Path) -> None:
    """What cannot be written is told, and nothing is half there."""
    if not can_mount():
        pytest.skip("needs root, for a small file system")
    small = machine.root / "net.d"
    small.mkdir()
    script = 'mount -t tmpfs -o size=8k,nr_inodes=3 none "$0"; "$@" && exit 9; test "$(ls -A "$0")" = ""'
    install = [sys.executable, "-m", "install", "--prefix", str(machine.prefix), "--conf-dir", str(small)]
    command = [UNSHARE, "--mount", "--propagation", "private", "sh", "-c", script, str(small), *install]
    env = {"PATH": os.environ["PATH"], "CALICO_LAUNCHER": "no", "DATASTORE_TYPE": "etcdv3",
           "TLS_ASSETS_DIR": str(assets), "NO_DEFAULT_POOLS": "true", "ETCD_ENDPOINTS": NOBODY}
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False,
                         cwd=Path(__file__).parents[2], timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "free some space and run install-cni again" in ran.stderr


def test_seeding(machine: Machine, etcd: Cluster, tmp_path: Path) -> None:
    """Pools, GUID and Felix's settings come into etcd once; a second host finds them."""
    machine.environment |= {"ETCD_ENDPOINTS": etcd.members[0].url, "CALICO_IPV4POOL_CIDR": "10.5.0.0/16"}
    assert done(machine, "create") == ["pool default-ipv4-ippool"]
    store = open_store(etcd.settings(tmp_path))
    first = cluster.cluster_of(store)
    assert first
    assert store.get("/calico/resources/v3/projectcalico.org/felixconfigurations/default").value["kind"] == (
        "FelixConfiguration")
    pools = store.records("/calico/resources/v3/projectcalico.org/ippools/")
    assert [record.value["spec"]["cidr"] for record in pools] == ["10.5.0.0/16"]
    second = Machine(tmp_path / "second", machine.environment | {"CALICO_IPV4POOL_CIDR": "10.6.0.0/16"})
    assert done(second, "create") == []
    assert cluster.cluster_of(store) == first
    assert not machine.settings.datastore_dir.exists()


def test_seeding_over_tls(machine: Machine, assets: Path, ca: Authority, pair: Pair) -> None:
    """The originals are shown while installing, and the copies say the same to the plugin."""
    member = ca.member("m", machine.root / "etcd", ca.issue("server", SERVER, LOOPBACK))
    machine.environment["ETCD_ENDPOINTS"] = member.url
    with running(member, etcd=ca.etcd(member, shows=pair)):
        assert done(machine, "create") == ["pool default-ipv4-ippool"]


def test_etcd_that_is_away_is_a_warning(machine: Machine) -> None:
    """A host comes up before its etcd: all is installed, and the operator is told what is not there yet."""
    report = machine.install()
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith(f"nothing is seeded: no etcd endpoint answered in time: {NOBODY}: Connection ")
    assert "run install-cni again" in report.warnings[0]
    assert machine.conflist.is_file()
    assert (machine.bin_dir / "calico").is_file()


def test_etcd_that_refuses_is_an_error(machine: Machine, etcd: Cluster, ca: Authority, pair: Pair) -> None:
    """Wrong certificates do not come right by waiting: nothing is installed."""
    member = ca.member("m", machine.root / "etcd", ca.issue("server", SERVER, LOOPBACK))
    with running(member, etcd=ca.etcd(member, shows=pair)):
        machine.environment["ETCD_ENDPOINTS"] = member.url
        with pytest.raises(InstallError, match=f"cannot seed the pools in etcd at {member.url}: .*certificate"):
            machine.install()
    assert not machine.prefix.exists()


def test_bad_pool(machine: Machine, etcd: Cluster) -> None:
    """As on files: the setting is named, and nothing is installed."""
    etcd.wipe()
    machine.environment |= {"ETCD_ENDPOINTS": etcd.members[0].url, "CALICO_IPV4POOL_CIDR": "10.0.0.0/99"}
    with pytest.raises(InstallError, match=r"cannot seed the pools in etcd at .*10\.0\.0\.0/99"):
        machine.install()
    assert not machine.prefix.exists()


def test_command(tmp_path: Path, etcd: Cluster, ca: Authority, pair: Pair) -> None:
    """As people run it: a dry run tells and writes nothing, here and in etcd; the password is never shown."""
    etcd.wipe()
    env = {"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": etcd.members[0].url, "ETCD_USERNAME": "u",
           "ETCD_PASSWORD": "secret", "ETCD_CERT_FILE": str(pair.cert), "ETCD_KEY_FILE": str(pair.key)}
    dry = install_cni("--prefix", str(tmp_path / "p"), "--dry-run", env=env)
    assert f"would create the default pools in etcd at {env['ETCD_ENDPOINTS']} (if it has none)" in dry.stdout
    assert f"would install {tmp_path}/p/etc/cni/net.d/calico-tls\n" in dry.stdout
    assert not (tmp_path / "p").exists()
    assert open_store(etcd.settings(tmp_path)).keys("/calico/") == []
    for run in (install_cni("--prefix", str(tmp_path / "p"), env=env), dry):
        assert run.returncode == 0, run.stderr
        assert "secret" not in run.stdout + run.stderr
    again = install_cni("--prefix", str(tmp_path / "p"), env=env)
    assert {line.split()[0] for line in again.stdout.splitlines()} == {"unchanged"}


def test_plugin_finds_dnspython(tmp_path: Path) -> None:
    """What looks SRV records up is in the library, where the plugin has no other packages."""
    machine = Machine(tmp_path)
    machine.packages = tree.locate_packages()
    machine.environment |= {"DATASTORE_TYPE": "kubernetes"}
    machine.install()
    library = machine.settings.layout.library / machine.trees[0]
    code = f"import sys; sys.path.insert(0, {str(library)!r}); import dns.resolver; print(dns.__file__)"
    ran = subprocess.run([machine.settings.python, "-ISXutf8", "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == f"{library}/dns/__init__.py"
