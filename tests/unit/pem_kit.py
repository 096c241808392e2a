"""Certificates for tests, as an operator makes them: by openssl, in PEM files."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datastore.settings import Etcd
from tests.etcd import Cluster, Member

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
LOOPBACK = "IP:127.0.0.1"
# etcd's gateway is a client of etcd's own, and shows the server's certificate: with serverAuth alone it is refused.
SERVER, CLIENT = "serverAuth,clientAuth", "clientAuth"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in files."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A certificate authority with a folder of its own."""

    folder: Path
    name: str = "ca"

    def __post_init__(self) -> None:
        openssl("req", "-x509", *NEW_KEY, "-days", "2", "-subj", f"/CN={self.name}", "-keyout", self.key,
                "-out", self.cert)

    @property
    def cert(self) -> Path:
        return self.folder / f"{self.name}.pem"

    @property
    def key(self) -> Path:
        return self.folder / f"{self.name}.key"

    def issue(self, name: str, usage: str = CLIENT, names: str = "DNS:nobody", days: int = 2) -> Pair:
        """Return a new certificate with its key; with a negative number of days it has ended so many days ago."""
        pair, request = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key"), self.folder / f"{name}.csr"
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"extendedKeyUsage={usage}\nsubjectAltName={names}\n")
        openssl("req", "-new", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", pair.key, "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial",
                "-days", str(days), "-extfile", extensions, "-out", pair.cert)
        return pair

    def member(self, name: str, folder: Path, server: Pair, *extra: str) -> Member:
        """Return an etcd that serves with a certificate, and wants one of this authority's from clients."""
        arguments = ("--cert-file", str(server.cert), "--key-file", str(server.key), "--client-cert-auth",
                     "--trusted-ca-file", str(self.cert), *extra)
        return Member(name, folder, scheme="https", extra=arguments)

    def etcd(self, *members: Member, shows: Pair | None, **more: Any) -> Etcd:
        """Return how such members are reached."""
        paths = {"cert_file": str(shows.cert), "key_file": str(shows.key)} if shows else {}
        return Etcd(**{"endpoints": tuple(member.url for member in members), "ca_cert_file": str(self.cert),
                       **paths, **more})


@contextmanager
def running(*members: Member, etcd: Etcd) -> Iterator[Cluster]:
    """Run the members while the body runs; they are asked as the settings say."""
    from datastore.tls import context_of

    cluster = Cluster(list(members), tls=context_of(etcd), etcd=etcd)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def openssl(*arguments: object) -> None:
    """Run openssl; a failure shows what it said."""
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
