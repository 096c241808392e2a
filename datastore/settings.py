"""Where the datastore is, as one frozen value; the settings of etcd by Calico's names, from whatever source has them.

The names are those of the network configuration (`etcd_endpoints` …), of the environment (`ETCD_ENDPOINTS` …) and of
calicoctl's file (`etcdEndpoints` …): libcalico-go lib/apiconfig, EtcdConfig.
"""

from __future__ import annotations

from datastore.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FILE, ETCD = "file", "etcdv3"
KINDS = (FILE, ETCD)
DEFAULT_DIR = "/var/lib/calico/datastore"
DEFAULT_ENDPOINT = "http://127.0.0.1:2379"
LOCK_FILE = "/var/run/calico/ipam.lock"
SCHEMES = ("http", "https")
# What is said of etcd, each with the way that the environment spells it.
ENDPOINTS, AUTHORITY, SCHEME, DISCOVERY_SRV = "endpoints", "authority", "scheme", "discovery_srv"
CA_CERT_FILE, CERT_FILE, KEY_FILE = "ca_cert_file", "cert_file", "key_file"
CA_CERT, CERT, KEY = "ca_cert", "cert", "key"
USERNAME, PASSWORD = "username", "password"
NAMES = (ENDPOINTS, AUTHORITY, SCHEME, DISCOVERY_SRV, CA_CERT_FILE, CERT_FILE, KEY_FILE, CA_CERT, CERT, KEY,
         USERNAME, PASSWORD)
SECRETS = (KEY, PASSWORD)
PLACES = (ENDPOINTS, DISCOVERY_SRV, AUTHORITY)  # whoever says one of these, and no kind, means etcd


class BadSettings(Exception):
    """Settings of a datastore that cannot be; the message names the setting as its user spelt it, and its value."""


@frozen
class Etcd:
    """How etcd is reached. endpoints: URLs; discovery_srv: a domain whose SRV records name them instead.

    ca_cert, cert and key are texts in PEM, in place of the files.
    """

    endpoints: tuple[str, ...] = (DEFAULT_ENDPOINT,)
    discovery_srv: str = ""
    ca_cert_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    ca_cert: str = ""
    cert: str = ""
    key: str = ""
    username: str = ""
    password: str = ""

    def __repr__(self) -> str:
        """Return the settings for people to read, with nothing of what only etcd may be shown."""
        shown = {name: "..." if value and name in SECRETS else value for name, value in vars(self).items()}
        return f"Etcd({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


@frozen
class Settings:
    """Which datastore to open: its kind, the directory of a file datastore, how etcd is reached.

    lock_file: held by this node's processes in turn while they change what is in etcd (Calico: ipam_lock_file).
    """

    kind: str = FILE
    directory: str = DEFAULT_DIR
    etcd: Etcd = Etcd()
    lock_file: str = LOCK_FILE


def in_environment(name: str) -> str:
    """Return the variable that a setting of etcd has in the environment."""
    return f"ETCD_{name.upper()}"


def from_environment(env: Mapping[str, str]) -> Settings:
    """Return what DATASTORE_TYPE, CALICO_DATASTORE_DIR, CALICO_IPAM_LOCK_FILE and ETCD_… say; empty counts as unset.

    Raises BadSettings. The kind is not looked at: that there is no such one, whoever opens it says.
    """
    texts = {name: env.get(in_environment(name)) or "" for name in NAMES}
    kind = env.get("DATASTORE_TYPE") or (ETCD if any(map(texts.get, PLACES)) else FILE)
    return Settings(
        kind=kind,
        directory=env.get("CALICO_DATASTORE_DIR") or DEFAULT_DIR,
        etcd=etcd_of(texts, lambda name: f"environment variable {in_environment(name)}") if kind == ETCD else Etcd(),
        lock_file=env.get("CALICO_IPAM_LOCK_FILE") or LOCK_FILE,
    )


def etcd_of(texts: Mapping[str, str], spelt: Callable[[str], str]) -> Etcd:
    """Return the settings of etcd from texts by the NAMES above; absent and empty are the same. Raises BadSettings.

    spelt: how the user spelt a name, with what it is a name of, for messages.
    """
    def text(name: str) -> str:
        return texts.get(name) or ""

    for file, inline in ((CA_CERT_FILE, CA_CERT), (CERT_FILE, CERT), (KEY_FILE, KEY)):
        if text(file) and text(inline):
            raise BadSettings(f"{spelt(file)} and {spelt(inline)} are both set; set one of them")
        if text(file) and (not text(file).startswith("/") or "\0" in text(file)):
            raise BadSettings(f"{spelt(file)} is {text(file)!r}: expected an absolute path")
    for first, second in ((CERT, KEY), (KEY, CERT)):
        if _has(texts, first) and not _has(texts, second):
            raise BadSettings(f"{spelt(f'{first}_file')} is set without {spelt(f'{second}_file')}; "
                              "a client shows its certificate with its key, or neither")
    if text(PASSWORD) and not text(USERNAME):
        raise BadSettings(f"{spelt(PASSWORD)} is set without {spelt(USERNAME)}")
    if text(DISCOVERY_SRV) and text(ENDPOINTS):
        raise BadSettings(f"{spelt(DISCOVERY_SRV)} and {spelt(ENDPOINTS)} are both set; set one of them")
    return Etcd(
        endpoints=_endpoints(text(ENDPOINTS), text(SCHEME), text(AUTHORITY), spelt),
        discovery_srv=text(DISCOVERY_SRV),
        ca_cert_file=text(CA_CERT_FILE), cert_file=text(CERT_FILE), key_file=text(KEY_FILE),
        ca_cert=text(CA_CERT), cert=text(CERT), key=text(KEY),
        username=text(USERNAME), password=text(PASSWORD),
    )


def _has(texts: Mapping[str, str], name: str) -> bool:
    return bool(texts.get(name) or texts.get(f"{name}_file"))


def _endpoints(listed: str, scheme: str, authority: str, spelt: Callable[[str], str]) -> tuple[str, ...]:
    """Return the URLs of a list with commas between; else what the older scheme and authority say."""
    if "@" in listed:  # before it is split: a password may have a comma
        raise _bad_endpoint(listed, spelt(ENDPOINTS))
    if listed:
        items = [item.strip() for item in listed.split(",") if item.strip()]
        return tuple(endpoint(item, spelt(ENDPOINTS)) for item in items or [listed])
    if authority:
        return (endpoint(f"{scheme or 'http'}://{authority}", spelt(AUTHORITY)),)
    return (DEFAULT_ENDPOINT,)


def endpoint(url: str, said: str) -> str:
    """Return an endpoint as `scheme://host:port`; raises BadSettings. said: where it comes from."""
    scheme, found, rest = url.partition("://")
    rest = rest.rstrip("/")
    host, colon, port = rest.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = rest, "2379"
    is_plain = host.isascii() and host.isprintable() and not set(host) & set(" /@?#\\%")
    is_address = _is_bracketed(host) if set(host) & set("[]:") else host
    if not (found and scheme in SCHEMES and is_plain and is_address and port.isdigit()
            and port.isascii() and 0 < int(port) < 65536):
        raise _bad_endpoint(url, said)
    return f"{scheme}://{host}:{int(port)}"


def _bad_endpoint(url: str, said: str) -> BadSettings:
    """Return the error that names an endpoint, or a list of them, without what is before an '@': it is a password."""
    before, at, after = url.rpartition("@")
    scheme, found, _ = before.partition("://")
    shown = f"{scheme if found else ''}{found}...{at}{after}" if at else url
    advice = "; name and password are settings of their own" if at else ""
    return BadSettings(
        f"{said} has {shown!r}: expected e.g. https://10.0.0.1:2379, with commas between several{advice}")


def _is_bracketed(host: str) -> bool:
    """Tell whether a host is an IPv6 address in brackets."""
    from socket import AF_INET6, inet_pton

    try:
        inet_pton(AF_INET6, host[1:-1])
    except (OSError, ValueError):
        return False
    return host[0] + host[-1] == "[]"
