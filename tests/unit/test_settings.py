"""Where the datastore is: what settings of etcd may say, and what is said of those that cannot be."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastore.settings import (
    DEFAULT_DIR,
    DEFAULT_ENDPOINT,
    BadSettings,
    Etcd,
    Settings,
    endpoint,
    etcd_of,
    from_environment,
)

PEM = {"ca_cert": "CA", "cert": "CERT", "key": "KEY"}
FILES = {"ca_cert_file": "/ca", "cert_file": "/cert", "key_file": "/key"}


def spelt(name: str) -> str:
    return f"<{name}>"


def test_nothing_said() -> None:
    """etcd on this machine, without TLS and password."""
    assert etcd_of({}, spelt) == Etcd() == etcd_of({"endpoints": "", "password": ""}, spelt)
    assert Etcd().endpoints == (DEFAULT_ENDPOINT,)


@pytest.mark.parametrize("texts", [PEM, FILES, {"ca_cert": "CA", "cert": "CERT", "key_file": "/key"},
                                   {"ca_cert_file": "/ca"}, {"username": "u"}, {"username": "u", "password": "p"},
                                   {"discovery_srv": "example.com"}])
def test_what_is_said_is_taken(texts: dict[str, str]) -> None:
    found = etcd_of(texts, spelt)
    assert {name: getattr(found, name) for name in texts} == texts
    assert found.endpoints == (DEFAULT_ENDPOINT,)


@pytest.mark.parametrize(("texts", "endpoints"), [
    ({"endpoints": "https://a:1,http://b"}, ("https://a:1", "http://b:2379")),
    ({"endpoints": " https://a:1/ , ,http://[fd00::1], "}, ("https://a:1", "http://[fd00::1]:2379")),
    ({"authority": "10.0.0.1:4001"}, ("http://10.0.0.1:4001",)),
    ({"authority": "10.0.0.1:4001", "scheme": "https"}, ("https://10.0.0.1:4001",)),
    ({"authority": "old:1", "endpoints": "http://new:1"}, ("http://new:1",)),
])
def test_endpoints(texts: dict[str, str], endpoints: tuple[str, ...]) -> None:
    """A list, each with its port; or the one server that the older settings name."""
    assert etcd_of(texts, spelt).endpoints == endpoints


@pytest.mark.parametrize(("texts", "message"), [
    ({"ca_cert_file": "/ca", "ca_cert": "CA"}, "<ca_cert_file> and <ca_cert> are both set; set one of them"),
    ({**PEM, "cert_file": "/cert"}, "<cert_file> and <cert> are both set; set one of them"),
    ({**PEM, "key_file": "/key"}, "<key_file> and <key> are both set; set one of them"),
    ({"ca_cert_file": "ca.pem"}, "<ca_cert_file> is 'ca.pem': expected an absolute path"),
    ({"cert_file": "/cert", "key_file": "~/key"}, "<key_file> is '~/key': expected an absolute path"),
    ({"ca_cert_file": "/a\0b"}, r"<ca_cert_file> is '/a\x00b': expected an absolute path"),
    ({"cert_file": "/cert"}, "<cert_file> is set without <key_file>; a client shows its certificate with its key, or "
                             "neither"),
    ({"cert": "CERT"}, "<cert_file> is set without <key_file>; a client shows its certificate with its key, or "
                       "neither"),
    ({"key_file": "/key"}, "<key_file> is set without <cert_file>; a client shows its certificate with its key, or "
                           "neither"),
    ({"password": "secret"}, "<password> is set without <username>"),
    ({"discovery_srv": "example.com", "endpoints": "http://a:1"}, "<discovery_srv> and <endpoints> are both set; set "
                                                                  "one of them"),
    ({"authority": "a:b"}, "<authority> has 'http://a:b': expected e.g. https://10.0.0.1:2379, with commas between "
                           "several"),
    ({"authority": "a:1", "scheme": "unix"}, "<authority> has 'unix://a:1': expected e.g. https://10.0.0.1:2379, with "
                                             "commas between several"),
    ({"endpoints": " , "}, "<endpoints> has ' , ': expected e.g. https://10.0.0.1:2379, with commas between several"),
])
def test_bad_settings(texts: dict[str, str], message: str) -> None:
    """The message has the name as the user spelt it, and never a password."""
    with pytest.raises(BadSettings) as caught:
        etcd_of(texts, spelt)
    assert str(caught.value) == message
    assert "secret" not in message


@pytest.mark.parametrize("url", [
    "a:1", "//a:1", "http:/a:1", "ftp://a:1", "HTTP://a:1", "http://", "http://:1", "http://a:", "http://a:0",
    "http://a:65536", "http://a:-1", "http://a:1e3", "http://a:\u0661", "http://a b:1", "http://\u00e9:1",
    "http://u:p@a:1", "http://a:1/v3", "http://a:1?x", "http://a#b:1", "http://a\\b:1", "http://a\n:1",
    "http://fd00::1", "http://[fd00::1", "http://fd00::1]:1", "http://[]:1", "http://[a]:1", "http://x::1y:1", "http://[::1%25eth0]:1",
])
def test_bad_endpoint(url: str) -> None:
    with pytest.raises(BadSettings, match=r"^said has .*: expected e\.g\. https://10\.0\.0\.1:2379"):
        endpoint(url, "said")


@given(st.one_of(st.text(), st.text("htps:/[]0123456789abf.@%\\").map("http://{}".format)))
def test_an_endpoint_is_one_or_refused(url: str) -> None:
    """What is taken stays the same when it is read again, and has a host and a port for the client."""
    try:
        found = endpoint(url, "said")
    except BadSettings:
        return
    assert endpoint(found, "said") == found
    assert urlsplit(found).hostname
    assert urlsplit(found).port


def test_environment() -> None:
    """Calico's variables; set but empty counts as unset, and settings of etcd are read for etcd only."""
    assert from_environment({}) == from_environment({"DATASTORE_TYPE": "", "CALICO_DATASTORE_DIR": ""}) == Settings()
    on_files = from_environment({"DATASTORE_TYPE": "file", "CALICO_DATASTORE_DIR": "/d", "ETCD_ENDPOINTS": "x"})
    assert on_files == Settings(directory="/d")
    assert from_environment({"ETCD_ENDPOINTS": "http://a:1"}).kind == "etcdv3"
    assert Settings().directory == DEFAULT_DIR
    found = from_environment({"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": "http://a:1", "ETCD_USERNAME": "u",
                              "ETCD_PASSWORD": "p", "ETCD_CA_CERT_FILE": "/ca"})
    assert (found.kind, found.etcd) == ("etcdv3", Etcd(("http://a:1",), username="u", password="p", ca_cert_file="/ca"))
    assert from_environment({"DATASTORE_TYPE": "x"}).kind == "x"


def test_bad_environment() -> None:
    with pytest.raises(BadSettings, match="environment variable ETCD_ENDPOINTS has 'a'"):
        from_environment({"DATASTORE_TYPE": "etcdv3", "ETCD_ENDPOINTS": "a"})
