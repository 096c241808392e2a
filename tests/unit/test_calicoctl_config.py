"""Where calicoctl's datastore is: file named, default file, environment; and what is wrong with each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from calicoctl.config import Access, ConfigError, load
from datastore.settings import DEFAULT_DIR, ETCD, FILE, Etcd, Settings

HEAD = "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\n"


def config(folder: Path, text: str) -> str:
    path = folder / "calicoctl.cfg"
    path.write_text(text)
    return str(path)


def where(access: Access) -> tuple[str, str]:
    return access.settings.kind, access.settings.directory


def refused(path: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert path in str(caught.value)
    return str(caught.value)


def test_environment_when_there_is_no_file(tmp_path: Path) -> None:
    absent = str(tmp_path / "none.cfg")
    assert where(load(None, {}, absent)) == ("file", DEFAULT_DIR)
    assert where(load(None, {"DATASTORE_TYPE": "", "CALICO_DATASTORE_DIR": ""}, absent)) == ("file", DEFAULT_DIR)
    found = load(None, {"DATASTORE_TYPE": "etcdv3", "CALICO_DATASTORE_DIR": "/srv/d"}, absent)
    assert where(found) == ("etcdv3", "/srv/d")
    assert "DATASTORE_TYPE" in found.kind_setting


@pytest.mark.parametrize("text", [
    HEAD + "spec:\n  datastoreType: file\n  datastoreDir: /srv/d\n",
    json.dumps({"apiVersion": "projectcalico.org/v3", "kind": "CalicoAPIConfig", "metadata": {},
                "spec": {"datastoreType": "file", "datastoreDir": "/srv/d"}}, indent="\t"),
])
def test_a_file_is_all_that_counts(tmp_path: Path, text: str) -> None:
    """Named or default, YAML or JSON; the environment is not asked, as in Calico."""
    path = config(tmp_path, text)
    env = {"DATASTORE_TYPE": "kubernetes", "CALICO_DATASTORE_DIR": "/elsewhere"}
    assert where(load(path, env)) == where(load(None, env, path)) == ("file", "/srv/d")


@pytest.mark.parametrize("rest", ["", "spec:\n", "spec: {}\n", "spec: {datastoreType: }\n", "spec: {datastoreDir: ''}"])
def test_what_a_file_leaves_out_has_its_default(tmp_path: Path, rest: str) -> None:
    assert where(load(config(tmp_path, HEAD + rest), {"CALICO_DATASTORE_DIR": "/elsewhere"})) == ("file", DEFAULT_DIR)


def test_a_named_file_has_to_exist(tmp_path: Path) -> None:
    assert "does not exist" in refused(str(tmp_path / "none.cfg"))
    assert "Is a directory" in refused(str(tmp_path))
    (tmp_path / "file").touch()
    assert "does not exist" in refused(str(tmp_path / "file" / "calicoctl.cfg"))
    assert load(None, {}, str(tmp_path / "file" / "calicoctl.cfg")).settings.kind == "file"


def test_a_default_file_that_is_bad_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither JSON nor YAML"):
        load(None, {}, config(tmp_path, "{"))


@pytest.mark.parametrize(("text", "says"), [
    ("a: [", "neither JSON nor YAML"),
    ("{" * 5000, "neither JSON nor YAML"),
    (HEAD + "spec: !!python/object/apply:os.system [id]\n", "neither JSON nor YAML"),
    ("", "its content is not a mapping"),
    ("- a\n", "its content is not a mapping"),
    (HEAD + "spec: file\n", 'key "spec" is not a mapping'),
    (HEAD + "spec: 0\n", 'key "spec" is not a mapping'),
    ("kind: CalicoAPIConfig\n", 'key "apiVersion" is missing, not "projectcalico.org/v3"'),
    ("apiVersion: v1\n", 'key "apiVersion" is "v1", not "projectcalico.org/v3"'),
    ("apiVersion: {2020-01-01: 1}\n", 'key "apiVersion" is {\'2020-01-01\': 1}, not'),
    ("apiVersion: projectcalico.org/v3\nkind: IPPool\n", 'key "kind" is "IPPool", not "CalicoAPIConfig"'),
    (HEAD + "spec:\n  datastoreType: 3\n", 'key "spec.datastoreType" is 3, not a string'),
    (HEAD + "spec:\n  datastoreDir: [/a]\n", 'key "spec.datastoreDir" is [\'/a\'], not a string'),
    (HEAD + "spec:\n  datastoreDir: some/where\n", '"spec.datastoreDir" is "some/where": expected an absolute path'),
    (HEAD + 'spec:\n  datastoreDir: "/a\\0b"\n', "expected an absolute path"),
    (HEAD + "spec:\n  datastoredir: /a\n", 'key "spec.datastoredir" is not known here; keys are: spec.datastoreType'),
    (HEAD + "specs: {}\n", 'key "specs" is not known here'),
])
def test_what_is_wrong_with_a_file(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(config(tmp_path, text))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "calicoctl.cfg"
    path.write_bytes(b"\xff\xfe\xff")
    assert "neither JSON nor YAML" in refused(str(path))


def test_a_relative_directory_in_the_environment(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'variable CALICO_DATASTORE_DIR is "here": expected an absolute path'):
        load(None, {"CALICO_DATASTORE_DIR": "here"}, str(tmp_path / "none.cfg"))


def test_keys_of_another_datastore_do_not_hide_its_name(tmp_path: Path) -> None:
    """A Calico user's own file: the answer is that its datastore is not supported, not that kubeconfig is unknown."""
    found = load(config(tmp_path, HEAD + "spec:\n  datastoreType: kubernetes\n  kubeconfig: /root/.kube/config\n"), {})
    assert found.settings.kind == "kubernetes"
    assert 'key "spec.datastoreType"' in found.kind_setting


PEM = "-----BEGIN X-----\nMII=\n-----END X-----\n"


@pytest.mark.parametrize(("spec", "etcd"), [
    ({}, Etcd()),
    ({"etcdEndpoints": ""}, Etcd()),
    ({"etcdEndpoints": "http://a:1, https://[fd00::1]"}, Etcd(endpoints=("http://a:1", "https://[fd00::1]:2379"))),
    ({"etcdDiscoverySrv": "example.org"}, Etcd(discovery_srv="example.org")),
    ({"etcdUsername": "me", "etcdPassword": "secret"}, Etcd(username="me", password="secret")),
    ({"etcdKeyFile": "/k", "etcdCertFile": "/c", "etcdCACertFile": "/ca"},
     Etcd(key_file="/k", cert_file="/c", ca_cert_file="/ca")),
    ({"etcdKey": PEM, "etcdCert": PEM, "etcdCACert": PEM}, Etcd(key=PEM, cert=PEM, ca_cert=PEM)),
])
def test_etcd_in_a_file(tmp_path: Path, spec: dict[str, str], etcd: Etcd) -> None:
    """By Calico's keys, in YAML and in JSON; a file with one of them need not say that it is etcd."""
    whole = {"apiVersion": "projectcalico.org/v3", "kind": "CalicoAPIConfig", "spec": spec}
    told = {**whole, "spec": {"datastoreType": "etcdv3", **spec}}
    for text in (json.dumps(told), yaml.safe_dump(told)):
        assert load(config(tmp_path, text), {"ETCD_USERNAME": "other"}).settings == Settings(ETCD, etcd=etcd)
    kind = ETCD if any(spec.values()) else FILE
    assert load(config(tmp_path, json.dumps(whole)), {}).settings == Settings(kind, etcd=etcd)


@pytest.mark.parametrize(("spec", "says"), [
    ("etcdEndpoints: a", "key \"spec.etcdEndpoints\" has 'a': expected e.g. https://10.0.0.1:2379"),
    ("etcdKeyFile: k\n  etcdCertFile: /c", "key \"spec.etcdKeyFile\" is 'k': expected an absolute path"),
    ("etcdCert: x", 'key "spec.etcdCertFile" is set without'),
    ("etcdPassword: x", 'key "spec.etcdPassword" is set without configuration file'),
    ("etcdPassword: 12345", 'key "spec.etcdPassword" is not a string'),
    ("etcdKey: [1]", 'key "spec.etcdKey" is not a string'),
    ("etcdUsername: 7", 'key "spec.etcdUsername" is 7, not a string'),
    ("datastoreDir: /a\n  datastoreType: etcdv3", 'key "spec.datastoreDir" is not known here; keys are: '),
    ("etcdEndpoints: http://a\n  datastoreType: file", 'key "spec.etcdEndpoints" is not known here; keys are: '),
    ("etcdendpoints: http://a\n  datastoreType: etcdv3", "spec.etcdCACert"),
    ("datastoreDir: /a\n  etcdUsername: me", 'key "spec.datastoreType" is missing, while datastoreDir is for file and '
                                             "etcdUsername for etcdv3; set it to one of them"),
])
def test_what_is_wrong_with_etcd_in_a_file(tmp_path: Path, spec: str, says: str) -> None:
    message = refused(config(tmp_path, f"{HEAD}spec:\n  {spec}\n"))
    assert says in message
    assert "12345" not in message


def test_etcd_in_the_environment(tmp_path: Path) -> None:
    """A variable that says where etcd is says that it is etcd; a certificate alone may be a server's."""
    absent = str(tmp_path / "none.cfg")
    for name, value, etcd in (("ETCD_ENDPOINTS", "http://a:1", Etcd(endpoints=("http://a:1",))),
                              ("ETCD_AUTHORITY", "a:1", Etcd(endpoints=("http://a:1",))),
                              ("ETCD_DISCOVERY_SRV", "example.org", Etcd(discovery_srv="example.org"))):
        for kind in ({}, {"DATASTORE_TYPE": ""}, {"DATASTORE_TYPE": "etcdv3"}):
            assert load(None, {name: value, **kind}, absent).settings == Settings(ETCD, etcd=etcd)
        assert load(None, {name: value, "DATASTORE_TYPE": "file"}, absent).settings == Settings()
        both = {name: value, "CALICO_DATASTORE_DIR": "/d"}
        with pytest.raises(ConfigError, match=f"DATASTORE_TYPE is missing, while CALICO_DATASTORE_DIR .*{name}"):
            load(None, both, absent)
        assert where(load(None, {**both, "DATASTORE_TYPE": "file"}, absent)) == ("file", "/d")
    assert load(None, {"ETCD_CERT_FILE": "/c"}, absent).settings == Settings()
    with pytest.raises(ConfigError, match="variable ETCD_ENDPOINTS has 'ftp://a'"):
        load(None, {"ETCD_ENDPOINTS": "ftp://a"}, absent)


def test_json_needs_no_yaml_reader(tmp_path: Path) -> None:
    """With PyYAML out of reach a JSON file is read, and a YAML file has an error that says what to do."""
    program = ("import sys; sys.modules['yaml'] = None; from calicoctl.config import load\n"
               "try: print(load(sys.argv[1], {}).settings.directory)\n"
               "except Exception as error: print(type(error).__name__, error)")

    def run(text: str) -> str:
        command = [sys.executable, "-c", program, config(tmp_path, text)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    value = {"apiVersion": "projectcalico.org/v3", "kind": "CalicoAPIConfig", "spec": {"datastoreDir": "/srv/d"}}
    assert run(json.dumps(value)) == "/srv/d\n"
    assert run(HEAD).startswith("ConfigError configuration file ")
    assert "needs PyYAML" in run(HEAD)


def test_aliases_in_a_file_are_limited(tmp_path: Path) -> None:
    """A file of a few lines can stand for more than any memory holds; and what is wrong is told shortly."""
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{at}: &a{at} [*a{at - 1}, *a{at - 1}]\n" for at in range(1, 60))
    assert "uses too many aliases" in refused(config(tmp_path, bomb + HEAD))
    assert len(refused(config(tmp_path, f"apiVersion: [{'x' * 10_000}]\n"))) < 500
    assert "has 2 documents" in refused(config(tmp_path, "a: 1\n---\nb: 1\n"))
