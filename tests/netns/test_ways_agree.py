"""The same calls on equal machines, in each way: stdout byte for byte, and the exit code (docs/testing.md).

What may differ is replaced or left out: a pod's random MAC (`recorder.normal`), and which address a pod gets that asks
for none when its ADD was cut off (`IN_ORDER`): it is given back before another one is taken. stderr is the log, which
an agent writes to its own; only where a person called is it compared.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cni_calico.errors import INTERNAL
from cni_calico.result import VERSIONS
from tests.ways import AGENT, KILLED, PYTHON, Killed, Way

from .machine import Json, Machine, Pod
from .recorder import Recorder, Said
from .test_check import DRIFTS

DENSE = (0.02, 0.12)  # the lives of agents here, in seconds: calls are short
DUAL = {"assign_ipv6": "true"}
SMALL = {"CALICO_IPV4POOL_CIDR": "10.7.0.0/30", "CALICO_IPV4POOL_BLOCK_SIZE": "30"}
VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
NOBODY: dict[str, str] = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/none", "CNI_IFNAME": "eth0",
                          "CNI_PATH": "/opt/cni/bin"}
BOTH = ("calico", "calico-ipam")
Story = Callable[[Recorder], object]
STORIES: dict[str, Story] = {}
IN_ORDER: set[str] = set()


def story(tell: Story) -> Story:
    """Register calls to be made on a machine of their own."""
    STORIES[tell.__name__] = tell
    return tell


def in_order(tell: Story) -> Story:
    """As `story`, for calls whose answers tell in which order addresses are given."""
    IN_ORDER.add(tell.__name__)
    return story(tell)


def nobody(site: Recorder, verb: str | None, stdin: object = None, *, plugin: str = "calico",
           prefix: tuple[str, ...] = (), **change: Any) -> None:
    """Ask for a verb of a pod that there is not; stdin: bytes, else changes of the configuration."""
    env = {**NOBODY, "CNI_ARGS": "IP=10.7.0.9", "CNI_COMMAND": verb, **change}
    conf = stdin if isinstance(stdin, bytes) else json.dumps({**site.conf(), **(stdin or {})}).encode()  # type: ignore[dict-item]
    site.raw(f"{plugin} {verb} {prefix} {change} {conf[:300]!r}", {k: v for k, v in env.items() if v is not None}, conf,
             plugin, prefix)


def asked(address: int = 0) -> Json:
    """Return the configuration that asks for certain addresses."""
    return {"ipam": DUAL, "args": {"cni": {"ips": [f"10.7.0.{address}", f"fd00:7::{address:x}"]}}}


@story
def environment(site: Recorder) -> None:
    for plugin in BOTH:
        for verb in VERBS:
            for missing in (None, ""):
                changes: dict[str, Any] = dict.fromkeys(NOBODY, missing)
                nobody(site, verb, plugin=plugin, **changes)
        for verb in ("FROB", "add", "VERSION", " ", "ADD\n", "\udcff"):
            nobody(site, verb, plugin=plugin)
        for name in NOBODY:
            for verb in ("ADD", "DEL", "CHECK"):
                change: dict[str, Any] = {name: None}
                nobody(site, verb, plugin=plugin, **change)


@story
def identifiers(site: Recorder) -> None:
    for verb in ("ADD", "DEL", "CHECK"):
        for container_id in ("../x", "a/b", "a b", "-a", "a\n", "é", "a" * 300, "\udcff"):
            nobody(site, verb, CNI_CONTAINERID=container_id)
        for ifname in (".", "..", "a/b", "a:b", "a b", "a\u2003b", "a" * 16, "é" * 8, "\udcff", "eth%d"):
            nobody(site, verb, CNI_IFNAME=ifname)
        for network in (None, "", "../x", "a b", 7, "a" * 300, "é", "\udcff"):
            nobody(site, verb, {"name": network})


@story
def stdin(site: Recorder) -> None:
    whole = json.dumps(site.conf()).encode()
    for verb in VERBS:
        for data in (b"", b"{", b"\xff\xfe", b"not json", b"null", b"[1]", b'"x"', b"[" * 100_000, b"\0", whole[:-1],
                     whole + b"x", b"\xef\xbb\xbf" + whole, b"{}"):
            nobody(site, verb, data)
        for closed in ("<&-", "</", "</dev/null"):
            nobody(site, verb, prefix=("sh", "-c", f'exec "$@" {closed}', "sh"))
    nobody(site, "DEL", {"x": "y" * 3_000_000})
    nobody(site, "STATUS", {"x": "y" * 3_000_000})


@story
def versions(site: Recorder) -> None:
    for plugin in BOTH:
        for verb in VERBS:
            for version in (*VERSIONS, None, "", "9.9.9", "1.0", 1, "1.1.0\n"):
                nobody(site, verb, {"cniVersion": version}, plugin=plugin)
        nobody(site, "VERSION", b"{", plugin=plugin)
        site.raw("VERSION alone", {"CNI_COMMAND": "VERSION"}, b"", plugin)


@story
def arguments(site: Recorder) -> None:
    """People call the executables with arguments, or with none; what is on stderr is for them."""
    for plugin in BOTH:
        for words in ((), ("-v",), ("--version",), ("-h",), ("--help",), ("--frob",), ("-v", "-v"), ("",)):
            for env in ({}, {**NOBODY, "CNI_COMMAND": "DEL"}, {"CNI_COMMAND": ""}):
                if words or not env.get("CNI_COMMAND"):
                    answer = site.raw(f"{plugin} {words} {env}", env, b"", plugin, (), words)
                    site.said.append(Said("its stderr", answer.code, answer.stderr.encode()))


@story
def cni_args(site: Recorder) -> None:
    for text in ("K8S_POD_NAME=p;K8S_POD_NAMESPACE=n;IgnoreUnknown=1;FOO=x", "IgnoreUnknown=1;IgnoreUnknown=1", ";;",
                 "FOO=a=b;IgnoreUnknown=true", "FOO=x", "FOO=x;IgnoreUnknown=0", "IgnoreUnknown=maybe", "novalue",
                 "IP=10.0.0", "MAC=x", "K8S_POD_NAMESPACE=a/b;IgnoreUnknown=1", "\udcff=x", "IP=10.7.0.9", "x" * 9000):
        for verb in ("ADD", "DEL", "CHECK"):
            nobody(site, verb, CNI_ARGS=text)


@story
def configurations(site: Recorder) -> None:
    """Each key with values it cannot have."""
    odd: dict[str, list[object]] = {
        "mtu": ["x", -1, 1, 1e9, 1.5, True], "num_queues": [0, "x", 10**9], "nodename": [7, "a/b"],
        "nodename_file": ["/nonexistent", 7], "datastore_type": ["etcd", "kubernetes", "x", 7],
        "etcd_endpoints": ["nonsense", 7],
        "datastore_dir": ["relative", 7, "/proc/nowhere", "/etc/passwd", "/dev/null/x"],
        "dns": ["x", {"nameservers": "x"}],
        "runtimeConfig": [7, {"ips": ["x"]}, {"mac": "x"}, {"ips": "10.7.0.1"}, {"MAC": "01:00:5e:00:00:01"}],
        "args": [7, {"cni": 7}, {"cni": {"ips": [7]}}], "ipam": [7, {}, {"type": 7}, None],
        "prevResult": [7, {}, {"ips": 7}, {"cniVersion": "9.9.9"}, {"cniVersion": "1.0.0", "ips": [{"address": "x"}]}],
        "log_level": ["loud", 7], "log_file_path": ["/proc/nowhere/log", 7], "log_file_max_size": ["x"],
        "container_settings": [7], "include_default_routes": ["x"], "cni.dev/valid-attachments": [7, [7], [{}]],
    }
    for key, values in odd.items():
        for value in values:
            for verb in ("ADD", "DEL", "GC" if "valid" in key else "STATUS"):
                nobody(site, verb, {key: value})
    for ipam in ({"ipv4_pools": ["none"]}, {"ipv4_pools": 7}, {"assign_ipv4": "x"}, {"assign_ipv4": "false"},
                 {"routes": [{"dst": "x"}]}, {"routes": 7}, {"ipv4_pools": ["10.9.0.0/16"]}):
        for verb in ("ADD", "DEL", "STATUS"):
            nobody(site, verb, {"ipam": {"type": "calico-ipam", **ipam}})


@story
def namespaces(site: Recorder) -> None:
    """What CNI_NETNS can be instead of a pod's namespace."""
    pod, folder = site.pod(), site.folder
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing")
    paths = ("/run/netns/gone", "/etc/passwd", "/proc/self/ns/uts", "/proc/self/ns/net", "/proc/thread-self/ns/net",
             site.host.path, "/", "é", "/dev/null", "relative", "", f"{folder}/loop", f"{folder}/dangling",
             "/etc/passwd/x", "/" + "x" * 300, "/" + "x/" * 3000, "/proc/self/ns/pid", " ", "\udcff")
    for plugin in BOTH:
        for path in paths:
            for verb in ("ADD", "CHECK", "DEL"):
                if (plugin, verb) != ("calico-ipam", "ADD"):  # which does not look into it
                    site.call(verb, pod, netns=path, plugin=plugin)
    site.call("ADD", pod, netns=site.host.path, env={"CNI_NETNS_OVERRIDE": "True"}, **asked())
    site.call("DEL", pod, netns=site.host.path)


@story
def lives(site: Recorder) -> None:
    """A pod's life in every version, by both executables."""
    for plugin in BOTH:
        for version in VERSIONS:
            pod = site.pod()
            conf = {**asked(), "plugin": plugin, "cniVersion": version}
            body = site.call("ADD", pod, **conf).ok
            for verb in ("CHECK", "DEL", "CHECK", "DEL"):
                site.call(verb, pod, prevResult=body, **conf)


@story
def twice(site: Recorder) -> None:
    """ADD of what is there already leaves it alone, also another container's."""
    pod, other = site.pod(), site.pod()
    body = site.call("ADD", pod, **asked()).ok
    for _ in range(20):
        site.call("ADD", pod, **asked(1))
        site.call("CHECK", pod, prevResult=body, **asked())
    site.call("ADD", other, netns=pod.netns.path, **asked(1))
    site.call("ADD", other, **asked())
    site.call("ADD", pod, "eth1", **asked(2))
    site.call("DEL", pod, "eth1")
    site.call("CHECK", pod, prevResult=body, **asked())
    for _ in range(2):
        site.call("DEL", pod)
        site.call("DEL", other)


@story
def asking(site: Recorder) -> None:
    """Addresses and MACs asked for, in each way in which one can."""
    ways: list[tuple[dict[str, str], Json]] = [
        ({"CNI_ARGS": "IP=10.7.3.4"}, {}), ({}, {"args": {"cni": {"ips": ["10.7.3.5/24"]}}}),
        ({}, {"runtimeConfig": {"ips": ["10.7.3.6"]}}), ({"CNI_ARGS": "IP=10.99.0.1"}, {}),
        ({"CNI_ARGS": "IP=10.7.3.7"}, {"args": {"cni": {"ips": ["fd00:7::9"]}}}),
        ({"CNI_ARGS": "IP=10.7.3.8;IgnoreUnknown=1;MAC=02:00:5e:10:00:01"}, {"mtu": 1400}),
        ({"CNI_ARGS": "IP=10.7.3.9"}, {"runtimeConfig": {"mac": "02:00:5e:10:00:02"}}),
        ({}, {"runtimeConfig": {"ips": ["10.7.3.10", "10.7.3.11"]}}),
        ({}, {"runtimeConfig": {"ips": ["10.7.3.10"] * 2}}),
    ]
    for env, more in ways:
        for _ in range(2):
            site.call("ADD", site.pod(), env=env, **more)
    for mac in ("01:00:5e:00:00:01", "00:00:00:00:00:00", "zz", "02:00:00:00:00"):
        site.call("ADD", site.pod(), runtimeConfig={"MAC": mac})
    for pod in site.pods:
        site.call("DEL", pod)


@story
def results(site: Recorder) -> None:
    """prevResult of other plugins, routes and name service in the answer."""
    previous = {"cniVersion": "1.1.0", "interfaces": [{"name": "br0"}], "routes": [{"dst": "10.1.0.0/16"}],
                "ips": [{"address": "10.1.0.2/24", "interface": 0}], "dns": {"domain": "x"}}
    variants: list[Json] = [
        {"prevResult": previous}, {"prevResult": previous, "dns": {"nameservers": ["10.0.0.1"]}},
        {"include_default_routes": True}, {"container_settings": {"allow_ip_forwarding": True}, "num_queues": 2},
        {"prevResult": {**previous, "cniVersion": "0.4.0"}}, {"prevResult": {}},
        {"routes": 1, "ipam": {"routes": [{"dst": "10.0.0.0/8"}, {"dst": "fd00::/8", "gw": "fe80::1"}]}},
    ]
    for number, variant in enumerate(variants):
        pod = site.pod()
        conf = {**asked(number), **variant}
        conf["ipam"] = {**DUAL, **variant.get("ipam", {})}
        body = site.call("ADD", pod, **conf).ok
        site.call("CHECK", pod, **{**conf, "prevResult": body})
        site.call("CHECK", pod, **{**conf, "prevResult": previous})
        site.call("DEL", pod, **{**conf, "prevResult": body})


@story
def refused_by_the_kernel(site: Recorder) -> None:
    """What stands in the way on the host, or in the pod."""
    for kind in ("blackhole", "unreachable", "prohibit"):
        site.host.ip("route", "add", kind, "10.7.0.0/32")
        site.call("ADD", site.pod(), **asked())
        site.host.ip("route", "del", kind, "10.7.0.0/32")
    site.host.ip("address", "add", "10.7.0.0/32", "dev", "lo")
    site.call("ADD", site.pod(), **asked())
    site.host.ip("address", "del", "10.7.0.0/32", "dev", "lo")
    site.host.ip("link", "add", "stale0", "type", "veth", "peer", "name", "stale1")
    site.host.ip("link", "set", "stale0", "up")
    site.host.ip("route", "add", "10.7.0.0/32", "dev", "stale0")
    site.call("ADD", site.pod(), **asked())
    pod = site.pod()
    pod.netns.ip("link", "add", "eth0", "type", "veth", "peer", "name", "other")
    site.call("ADD", pod, **asked(1))
    site.call("ADD", site.pod(), **{**asked(1), "mtu": 1000})
    assert site.left() == []


@story
def drift(site: Recorder) -> None:
    """CHECK of each kind of drift, and DEL of what has drifted."""
    for breaks, _ in DRIFTS.values():
        pod = site.pod()
        body = site.add(pod, **asked())
        breaks(site, pod, body["interfaces"][0]["name"])
        site.call("CHECK", pod, prevResult=body, ipam=DUAL)
        site.call("CHECK", pod, plugin="calico-ipam", type="ptp", prevResult=body, ipam=DUAL)
        site.call("DEL", pod, ipam=DUAL)
        shutil.rmtree(site.datastore)


@story
def check(site: Recorder) -> None:
    pod, other = site.pod(), site.pod()
    body = site.add(pod, **asked())
    moved = json.loads(json.dumps(body).replace(pod.netns.path, "/run/netns/gone"))
    elsewhere = json.loads(json.dumps(body).replace("10.7.0.0", "10.7.0.9"))
    for previous in (None, {}, body, moved, elsewhere, {**body, "ips": []}, {**body, "interfaces": []}):
        for netns in (None, "/run/netns/gone", other.netns.path):
            site.call("CHECK", pod, netns=netns, prevResult=previous, ipam=DUAL)
    site.call("CHECK", other, prevResult=body)
    site.call("CHECK", pod, "eth1", prevResult=body)
    site.call("CHECK", pod, name="net2", prevResult=body)
    site.call("CHECK", pod, prevResult=body, nodename="other", **asked())


@story
def gc(site: Recorder) -> None:
    """GC with lists of every kind, in both networks, by both executables."""
    key = "cni.dev/valid-attachments"
    for plugin in BOTH:
        pods = [site.pod() for _ in range(4)]
        for number, pod in enumerate(pods):
            site.call("ADD", pod, plugin=plugin, name="net2" if number == 3 else "net", **asked(number))
        keep = [{"containerID": pods[0].container_id, "ifname": "eth0"}]
        lists: list[Json] = [{key: [7]}, {key: "x"}, {key: [{"containerID": "a"}]}, {}, {"cni.dev/attachments": keep},
                             {key: keep}, {"cniVersion": "1.0.0", key: keep}, {key: None}, {key: [], "name": "net2"}]
        for more in lists:
            site.call("GC", None, plugin=plugin, **more)
            site.said.append(Said("left", 0, json.dumps(sorted(site.allocated().items())).encode()))
        assert not site.allocated()


@story
def status(site: Recorder) -> None:
    settings: list[dict[str, str]] = [
        {}, {"NO_DEFAULT_POOLS": "true"}, {"CALICO_IPV4POOL_CIDR": "10.7.0.1/16"}, {"CALICO_IPV4POOL_CIDR": "none"},
        {"CALICO_IPV4POOL_BLOCK_SIZE": "99"}, {"CALICO_IPV6POOL_CIDR": "x"},
    ]
    for plugin in BOTH:
        for env in settings:
            site.call("STATUS", None, env=env, plugin=plugin, ipam=DUAL)
            site.call("ADD", site.pod(), env=env, plugin=plugin, netns="/run/netns/gone")
        shutil.rmtree(site.datastore, ignore_errors=True)
    site.call("STATUS", None, nodename="", nodename_file="/nonexistent", nodename_file_optional=False)
    for number in range(4):
        site.call("ADD", site.pod(), env=SMALL, runtimeConfig={"ips": [f"10.7.0.{number}"]})
    for plugin in BOTH:
        site.call("STATUS", None, env=SMALL, plugin=plugin)
        site.call("ADD", site.pod(), env=SMALL, plugin=plugin)
        site.call("ADD", site.pod(), env={**SMALL, "CNI_ARGS": "IP=10.7.0.2"}, plugin=plugin)
    block = site.datastore / "calico/ipam/v2/assignment/ipv4/block/10.7.0.0-30.json"
    block.write_text("{")
    for verb in ("STATUS", "ADD", "DEL", "GC"):
        for plugin in BOTH:
            site.call(verb, site.pods[-6], env=SMALL, plugin=plugin)


@story
def records(site: Recorder) -> None:
    """Damaged and missing records."""
    def damage(kind: str, text: str | None) -> None:
        for file in (site.datastore / "calico").rglob("*.json"):
            if kind in str(file):
                file.unlink() if text is None else file.write_text(text)

    for kind in ("/block/", "/handle/", "workloadendpoints", "ippools", "/host/", "affinities"):
        for text in ("{", None):
            pod = site.pod()
            body = site.add(pod, **asked())
            damage(kind, text)
            site.call("CHECK", pod, prevResult=body, ipam=DUAL)
            site.call("ADD", site.pod(), **asked(1))
            site.call("STATUS", None)
            empty: Json = {"cni.dev/valid-attachments": []}
            site.call("GC", None, **empty)
            site.call("DEL", pod)
            site.call("DEL", pod, plugin="calico-ipam")
            shutil.rmtree(site.datastore)
            for link in site.veths():
                site.host.ip("link", "del", link)


@story
def foreign_ipam(site: Recorder) -> None:
    """IPAM plugins of others: one that works, one that has nothing to give, ones that are not there."""
    works: Json = {"type": "host-local", "ranges": [[{"subnet": "10.66.0.0/30"}]], "dataDir": f"{site.folder}/leases"}
    for version in ("1.0.0", "1.1.0"):
        for ipam in (works, {"type": "nowhere"}, {"type": "static"}):
            pods = [site.pod() for _ in range(2)]
            conf: Json = {"ipam": ipam, "cniVersion": version}
            for pod in pods:
                body = site.call("ADD", pod, **conf).body
                site.call("CHECK", pod, **conf, prevResult=body if body and "ips" in body else None)
            site.call("STATUS", None, **conf)
            site.call("GC", None, **conf)
            site.call("DEL", pods[0], env={"CNI_PATH": ""}, **conf)
            for pod in pods:
                site.call("DEL", pod, **conf)


@story
def nobody_listens(site: Recorder) -> None:
    """Where stdout cannot be written, an ADD is undone."""
    for closed in (">&-", ">/dev/full"):
        for verb in VERBS:
            pod = site.pod()
            site.call(verb, pod, prefix=("sh", "-c", f'exec "$@" {closed}', "sh"), **asked())
        assert site.left() == []


@story
def absent(site: Recorder) -> None:
    """DEL of what never was, with a configuration that nobody else would take."""
    pod = site.pod()
    odd: list[Json] = [{}, {"ipam": {"type": "calico-ipam", "ipv4_pools": 7}}, {"prevResult": "odd", "mtu": "x"},
                       {"nodename": "renamed"}, {"cniVersion": "0.1.0"}, {"datastore_type": "etcd"},
                       {"runtimeConfig": 7}]
    for more in odd:
        for plugin in BOTH:
            for ifname in ("eth0", "eth%d"):
                site.call("DEL", pod, ifname, plugin=plugin, env={"CNI_ARGS": "odd"}, **more)


@in_order
def order(site: Recorder) -> None:
    """Addresses that nobody asked for come in the same order, and come again in the same order."""
    for plugin in BOTH:
        pods = [site.pod() for _ in range(6)]
        for pod in pods:
            site.call("ADD", pod, plugin=plugin, ipam=DUAL)
        for pod in pods[1:4]:
            site.call("DEL", pod, plugin=plugin)
        for pod in [*pods[1:4], site.pod()]:
            site.call("ADD", pod, plugin=plugin, ipam=DUAL)
    for pod in site.pods:
        site.call("ADD", pod, "eth1", env={"CALICO_IPV4POOL_CIDR": "10.7.0.0/16"}, ipam={"ipv4_pools": ["10.7.0.0/16"]})


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Said]]:
    """What the Python plugin answered, by story."""
    return {}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every machine is, one after the other."""
    return tmp_path_factory.mktemp("ways") / "site"


def record(name: str, way: Way, installed: Path, place: Path) -> list[Said]:
    """Tell a story on a new machine; return all that was said."""
    if isinstance(way, Killed):
        way.lives = DENSE
    site = Recorder(way.bin_dir(installed), place, verbs_are_killed=way.name == KILLED)
    try:
        with way.serving(site.host.path, place.parent) as env:
            site.env |= env
            STORIES[name](site)
    finally:
        site.close()
        shutil.rmtree(place)
        shutil.rmtree(place.parent / way.name, ignore_errors=True)
    return site.said


@pytest.mark.parametrize("name", STORIES)
def test_answers(name: str, way: Way, installed: Path, place: Path, told: dict[str, list[Said]]) -> None:
    """Every answer is that of the Python plugin alone, and none tells of a bug."""
    if name not in told:
        told[name] = record(name, Way(), installed, place)
        bugs = [said for said in told[name] if f'"code":{INTERNAL}'.encode() in said.stdout]
        assert not [said for said in bugs if b"IPAM plugin" not in said.stdout]  # others' own words
    if way.name == PYTHON or (way.name == KILLED and name in IN_ORDER):
        return
    said = record(name, way, installed, place)
    differing = [(here, there) for here, there in zip(told[name], said, strict=True) if here != there]
    assert not differing, f"{len(differing)} of {len(said)} differ: {differing[:5]}"


def test_who_answers(machine: Machine, way: Way) -> None:
    """An agent serves all but what it says it does not: so the comparison is one."""
    if way.name != AGENT:
        pytest.skip("nobody knows who answers where agents are killed, and there is none with the Python plugin alone")
    notes = machine.bin_dir / "fallbacks"

    def fell_back(verb: str, pod: Pod | None, **more: Any) -> str:
        before = len(notes.read_bytes())
        machine.call(verb, pod, **more)
        return notes.read_bytes()[before:].decode()

    pod = machine.pod()
    for plugin in BOTH:
        assert [fell_back(verb, pod, plugin=plugin) for verb in VERBS] == [""] * len(VERBS)
    assert [fell_back(verb, pod, ipam={"type": "host-local"}) for verb in VERBS] == ["-"] * len(VERBS)
