"""The process contract (CNI spec 1.1.0 and the reference skel) as cases through `skel.run`."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from cni_calico import errors
from cni_calico.__main__ import CALICO
from cni_calico.errors import CniError
from cni_calico.result import VERSIONS, Ip, Result
from cni_calico.skel import Call, Plugin, Untaken, run
from ipam.__main__ import CALICO_IPAM

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/none",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}
CONF = {"cniVersion": "1.1.0", "name": "net", "type": "calico", "ipam": {"type": "calico-ipam"}}


def answer(call: Call) -> Result | None:
    """A verb that works."""
    if call.command != "ADD":
        return None
    result = Result(ips=(Ip("10.0.0.1/32"),))
    call.answer(result)
    return result


def refuse(call: Call) -> Result | None:
    """A verb that fails with an error of its own, in words that go-cni would swallow."""
    raise CniError(123, "the frob was not found", "open /x: no such file or directory")


def crash(call: Call) -> Result | None:
    """A verb with a bug."""
    raise ZeroDivisionError("oops")


def plugin_of(verb: Any) -> Plugin:
    return Plugin("test", "a test", lambda: dict.fromkeys(("ADD", "DEL", "CHECK", "GC", "STATUS"), verb))


def call(plugin: Plugin, env: dict[str, str] | None = None, conf: object = CONF, **more: str) -> tuple[int, Any]:
    """Run one verb; return its exit code and the JSON on stdout, None when there is nothing."""
    data = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
    stdout = io.BytesIO()
    code = run(plugin, {**(ENV if env is None else env), **more}, io.BytesIO(data), stdout)
    text = stdout.getvalue()
    return code, json.loads(text) if text else None


def error_of(outcome: tuple[int, Any]) -> Any:
    """Return the error object of a failed call, which must be all there is on stdout."""
    code, body = outcome
    assert code == 1
    assert body["cniVersion"] in VERSIONS
    assert type(body["code"]) is int
    assert body["code"] > 0
    assert body["msg"]
    return body


@pytest.mark.parametrize("version", VERSIONS)
def test_add_answers_in_the_configuration_s_version(version: str) -> None:
    """An ADD's result carries the version of its input (rule A3)."""
    code, body = call(plugin_of(answer), conf={**CONF, "cniVersion": version})
    assert (code, body["cniVersion"]) == (0, version)


@pytest.mark.parametrize("command", ["DEL", "CHECK", "GC", "STATUS"])
def test_other_verbs_print_nothing(command: str) -> None:
    """Success of a verb without a result leaves stdout empty (rule P7)."""
    assert call(plugin_of(answer), CNI_COMMAND=command) == (0, None)


def test_missing_version_is_0_1_0() -> None:
    """A configuration without cniVersion is of the first version, as libcni reads it."""
    conf = {key: value for key, value in CONF.items() if key != "cniVersion"}
    assert call(plugin_of(answer), conf=conf)[1]["cniVersion"] == "0.1.0"


@pytest.mark.parametrize("version", ["9.9.9", "1.0", "2.0.0", 1])
def test_unsupported_version(version: object) -> None:
    """An unknown cniVersion is code 1, with both sides in the details."""
    body = error_of(call(plugin_of(answer), conf={**CONF, "cniVersion": version}))
    assert body["code"] == errors.INCOMPATIBLE_VERSION
    assert str(version) in body["details"]
    assert "1.1.0" in body["details"]


@pytest.mark.parametrize(
    ("command", "version", "allowed"),
    [
        (command, version, VERSIONS.index(version) >= VERSIONS.index(since))
        for command, since in (("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0"), ("DEL", "0.1.0"))
        for version in VERSIONS
    ],
)
def test_verbs_by_version(command: str, version: str, allowed: bool) -> None:
    """A verb that the configuration's version does not have yet is code 1."""
    outcome = call(plugin_of(answer), conf={**CONF, "cniVersion": version}, CNI_COMMAND=command)
    if allowed:
        assert outcome == (0, None)
    else:
        assert error_of(outcome)["code"] == errors.INCOMPATIBLE_VERSION


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("ADD", {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"}),
        ("CHECK", {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"}),
        ("DEL", {"CNI_CONTAINERID", "CNI_IFNAME"}),
    ],
)
@pytest.mark.parametrize("how", ["unset", "empty"])
def test_missing_variables_are_named_together(command: str, needed: set[str], how: str) -> None:
    """One error of code 4 names every missing variable; an empty one is missing."""
    env = {"CNI_COMMAND": command}
    if how == "empty":
        env |= dict.fromkeys(ENV.keys() - {"CNI_COMMAND"}, "")
    body = error_of(call(plugin_of(answer), env=env))
    assert body["code"] == errors.INVALID_ENVIRONMENT
    assert {name for name in ENV if name in body["msg"]} == needed


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_gc_and_status_need_no_attachment(command: str) -> None:
    """GC and STATUS run with the variables libcni sets to the empty string (rule 1.2)."""
    env = {"CNI_COMMAND": command, "CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": "", "CNI_PATH": "/x"}
    assert call(plugin_of(answer), env=env) == (0, None)


@pytest.mark.parametrize("netns", ["", None])
def test_del_without_netns(netns: str | None) -> None:
    """DEL runs with CNI_NETNS empty or unset (rule D2)."""
    env = {key: value for key, value in ENV.items() if key != "CNI_NETNS"} | {"CNI_COMMAND": "DEL"}
    if netns is not None:
        env["CNI_NETNS"] = netns
    assert call(plugin_of(answer), env=env) == (0, None)


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize("container_id", ["../x", "a/b", "a b", "-a", ".a", "a\n", "é", "a" * 300])
def test_bad_container_ids(command: str, container_id: str) -> None:
    """A container id that could become a path or a surprise is code 4 on every verb, and told in the details."""
    body = error_of(call(plugin_of(answer), CNI_COMMAND=command, CNI_CONTAINERID=container_id))
    assert body["code"] == errors.INVALID_ENVIRONMENT
    assert body["details"] == container_id


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize("ifname", [".", "..", "a/b", "a:b", "a b", "a\u2003b", "a" * 16, "é" * 8, "\udcff"])
def test_bad_interface_names(command: str, ifname: str) -> None:
    """An interface name that the kernel refuses is code 4 on every verb."""
    body = error_of(call(plugin_of(answer), CNI_COMMAND=command, CNI_IFNAME=ifname))
    assert body["code"] == errors.INVALID_ENVIRONMENT


@pytest.mark.parametrize("command", ["ADD", "DEL", "GC"])
@pytest.mark.parametrize("name", [None, "", "../x", "a b", "-a", 7, "a" * 300])
def test_bad_network_names(command: str, name: object) -> None:
    """A missing or odd network name is code 7 on every verb."""
    body = error_of(call(plugin_of(answer), conf={**CONF, "name": name}, CNI_COMMAND=command))
    assert body["code"] == errors.INVALID_CONFIG


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"not json", b"null", b"[1]", b'"x"', b"[" * 100_000])
def test_stdin_that_is_no_json_object(data: bytes) -> None:
    """Anything but a JSON object on stdin is code 6, however odd."""
    assert error_of(call(plugin_of(answer), conf=data))["code"] == errors.UNDECODABLE


def test_stdin_closed() -> None:
    """A closed stdin is code 5."""
    stdout = io.BytesIO()
    assert run(plugin_of(answer), ENV, None, stdout) == 1
    assert json.loads(stdout.getvalue())["code"] == errors.IO_FAILURE


def test_stdin_unreadable() -> None:
    """A stdin that cannot be read is code 5."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    stdout = io.BytesIO()
    assert run(plugin_of(answer), ENV, Broken(), stdout) == 1
    assert json.loads(stdout.getvalue())["code"] == errors.IO_FAILURE


def test_large_stdin() -> None:
    """Ten megabytes of unknown keys do no harm."""
    assert call(plugin_of(answer), conf={**CONF, "x": "y" * 10_000_000})[0] == 0


@pytest.mark.parametrize("plugin", [CALICO, CALICO_IPAM])
@pytest.mark.parametrize("env", [{"CNI_COMMAND": "VERSION"}, {"CNI_COMMAND": "VERSION", "CNI_NETNS": "dummy"}])
def test_version(plugin: Plugin, env: dict[str, str]) -> None:
    """VERSION lists all seven versions, needs no other variable, and does not touch stdin (rules V1-V3)."""
    stdout = io.BytesIO()
    assert run(plugin, env, None, stdout) == 0
    assert json.loads(stdout.getvalue()) == {"cniVersion": "1.1.0", "supportedVersions": list(VERSIONS)}


def test_no_command(capfd: pytest.CaptureFixture[str]) -> None:
    """Without a verb there is an about text on stderr, nothing on stdout, and success (rule P15)."""
    assert call(CALICO, env={}) == (0, None)
    assert "1.1.0" in capfd.readouterr().err


def test_unknown_command() -> None:
    """An unknown verb is code 4 and named."""
    body = error_of(call(CALICO, CNI_COMMAND="FROB"))
    assert body["code"] == errors.INVALID_ENVIRONMENT
    assert "FROB" in body["msg"]


def test_errors_say_whose_they_are() -> None:
    """A verb's CniError reaches the runtime with code and message as they are; the details add which pod it was."""
    body = error_of(call(plugin_of(refuse), CNI_ARGS="K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop"))
    assert body == {
        "cniVersion": "1.1.0", "code": 123, "msg": "the frob was not found",
        "details": "open /x: no such file or directory; network net, container c1, interface eth0, pod shop/web",
    }


def test_del_errors_have_no_words_that_are_swallowed() -> None:
    """A DEL error has none of the words that make go-cni take it for success (rule D8)."""
    text = json.dumps(error_of(call(plugin_of(refuse), CNI_COMMAND="DEL")))
    assert "not found" not in text
    assert "no such file or directory" not in text.lower()


def test_a_bug_is_an_error_object_and_a_logged_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    """An unexpected exception is code 999 without a traceback on stdout; the log has it."""
    body = error_of(call(plugin_of(crash)))
    assert body["code"] == errors.INTERNAL
    assert "Traceback" not in json.dumps(body)
    assert "Traceback" in capfd.readouterr().err


def test_stdout_gone() -> None:
    """A reader that went away is exit code 1, not a crash, and the ADD it will never know of is told so, to undo."""

    class Gone(io.BytesIO):
        def write(self, data: object) -> int:
            raise BrokenPipeError

    def undoing(call: Call) -> Result | None:
        try:
            return answer(call)
        except Untaken:
            undone.append(call.command)
            raise

    for stdout in (Gone(), None):
        undone: list[str] = []
        assert run(plugin_of(undoing), ENV, io.BytesIO(json.dumps(CONF).encode()), stdout) == 1
        assert undone == ["ADD"]


def test_the_host_s_own_namespace_is_refused() -> None:
    """ADD into the namespace the plugin runs in is code 8, unless CNI_NETNS_OVERRIDE says so (rule P13)."""
    own = "/proc/self/ns/net"
    assert error_of(call(plugin_of(answer), CNI_NETNS=own))["code"] == errors.INVALID_NETNS
    assert call(plugin_of(answer), CNI_NETNS=own, CNI_NETNS_OVERRIDE="True")[0] == 0
    assert call(plugin_of(answer), CNI_NETNS=own, CNI_COMMAND="DEL")[0] == 0


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ("K8S_POD_NAME=p;K8S_POD_NAMESPACE=n;IgnoreUnknown=1;FOO=x", None),
        ("IgnoreUnknown=1;IgnoreUnknown=1", None),
        (";;", None),
        ("FOO=a=b;IgnoreUnknown=true", None),
        ("FOO=x", "FOO"),
        ("FOO=x;IgnoreUnknown=0", "FOO"),
        ("IgnoreUnknown=maybe", "IgnoreUnknown"),
        ("novalue", "novalue"),
        ("IgnoreUnknown=TRUE;FOO=x", None),
        ("IP=10.0.0", "10.0.0"),
        ("MAC=x", "MAC"),
        ("K8S_POD_NAMESPACE=a/b;IgnoreUnknown=1", "K8S_POD_NAMESPACE"),
    ],
)
def test_cni_args(args: str, problem: str | None) -> None:
    """Unknown CNI_ARGS keys are refused unless IgnoreUnknown is true; DEL takes anything."""
    outcome = call(plugin_of(answer), CNI_ARGS=args)
    if problem is None:
        assert outcome[0] == 0
    else:
        body = error_of(outcome)
        assert body["code"] == errors.INVALID_ENVIRONMENT
        assert problem in body["msg"]
    assert call(plugin_of(answer), CNI_ARGS=args, CNI_COMMAND="DEL") == (0, None)
