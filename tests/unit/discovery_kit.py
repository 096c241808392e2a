"""A little DNS server, and a machine on which it is the only one (test_discovery.py).

Run as a program in namespaces of its own, for mounts and network, with a folder: there it serves real DNS and real etcd
on loopback, and prints as JSON what the product finds by them.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from datastore import open_store
from datastore.api import StoreError
from datastore.discovery import discover
from datastore.settings import ETCD, Etcd, Settings
from tests.etcd import serving

TTL = 1
SSL, PLAIN = "_etcd-client-ssl._tcp", "_etcd-client._tcp"
Zone = Mapping[tuple[str, str], list[str]]


@contextmanager
def answering(zone: Zone) -> Iterator[None]:
    """Answer queries on port 53 of loopback, by the records of a zone; those for `silent.test` get no answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        thread = threading.Thread(target=_serve, args=(server, zone))
        thread.start()
        try:
            yield
        finally:
            server.sendto(b"", server.getsockname())
            thread.join()


def _serve(server: socket.socket, zone: Zone) -> None:
    while True:
        said, client = server.recvfrom(4096)
        if not said:
            return
        query = dns.message.from_wire(said)
        question = query.question[0]
        name = question.name.to_text().rstrip(".").lower()
        if name.endswith("silent.test"):
            continue
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        records = zone.get((name, question.rdtype.name))
        if records:
            answer.answer.append(dns.rrset.from_text(question.name, TTL, "IN", question.rdtype.name, *records))
        elif name.startswith("_etcd-client._tcp.failing"):
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif not any(name == known for known, _ in zone):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        server.sendto(answer.to_wire(), client)


def main(folder: Path) -> None:
    """Serve, look up, and print what came of it."""
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", str(folder / "resolv.conf"), "/etc/resolv.conf"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with serving(folder / "etcd") as cluster:
        port = cluster.members[0].ports[0]
        zone = {
            (f"{PLAIN}.cluster.test", "SRV"): [f"1 0 {port} m0.cluster.test.", "0 0 9 dead.cluster.test."],
            ("m0.cluster.test", "A"): ["127.0.0.1"],
            ("dead.cluster.test", "A"): ["127.0.0.2"],
            (f"{SSL}.both.test", "SRV"): ["0 5 2379 light.test.", "0 10 2379 heavy.test.", "1 99 1 last.test."],
            (f"{PLAIN}.both.test", "SRV"): ["0 0 2380 plain.test."],
            (f"{PLAIN}.none.test", "SRV"): ["0 0 0 ."],
        }
        with answering(zone):
            domains = "both.test", "none.test", "missing.test", "failing.test", "silent.test", "bad..test"
            found = {domain: _told(discover, domain, 1.0) for domain in domains}
            print(json.dumps(found | {"store": _told(_used, "cluster.test", folder)}))


def _told(look: Callable[..., object], *arguments: object) -> object:
    try:
        return look(*arguments)
    except StoreError as error:
        return f"{type(error).__name__}: {error}"


def _used(domain: str, folder: Path) -> object:
    """Write a record to the etcd of a domain, and read it with another store."""
    settings = Settings(kind=ETCD, etcd=Etcd(discovery_srv=domain), lock_file=str(folder / "ipam.lock"))
    open_store(settings).create("/calico/x", {"found": domain})
    return open_store(settings).get("/calico/x").value


if __name__ == "__main__":
    main(Path(sys.argv[1]))
