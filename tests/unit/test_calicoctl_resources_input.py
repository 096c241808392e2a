"""What `-f` takes: files, directories, stdin; documents and lists, YAML and JSON; and what it says of bad ones."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calicoctl import yamltext
from datastore import keys

from .resources_kit import API, Place, many, node, pool, resource

HEAD = f"apiVersion: {API}\nkind: Node\n"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def names(place: Place, kind: str = "nodes") -> list[str]:
    return [item["metadata"]["name"] for item in place.get(kind)["items"]]


@pytest.mark.parametrize("text", [
    many(node("a"), node("b")),
    f"---\n{many(node('a'))}---\n---\n# only a remark\n---\n{many(node('b'))}",
    json.dumps([node("a"), node("b")], indent="\t"),
    json.dumps({"apiVersion": "v1", "kind": "List", "items": [node("a"), node("b")]}),
    json.dumps({"apiVersion": API, "kind": "List", "metadata": {}, "items": [[node("a")], node("b")]}),
    json.dumps({"apiVersion": API, "kind": "NodeList", "metadata": {"resourceVersion": "5"},
                "items": [{"metadata": {"name": "a"}}, node("b")]}),
    "\ufeff" + many(node("a"), node("b")),
    "\ufeff" + json.dumps([node("a"), node("b")], indent="\t"),
])
def test_documents_and_lists(place: Place, text: str) -> None:
    file = place.folder / "nodes"
    file.write_text(text)
    for source in (["-f", str(file)], ["-f", "-"]):
        assert place.ok("apply", *source, stdin=text) == "Successfully applied 2 'Node' resource(s)\n"
    assert names(place) == ["a", "b"]


def test_directories(place: Place) -> None:
    """Files that end in .yaml, .yml and .json, in name order; those below only with -R."""
    folder = place.folder / "in"
    (folder / "below").mkdir(parents=True)
    for file, name in (("1.yaml", "a"), ("2.YML", "b"), ("3.json", "c"), ("4.txt", "d"), ("below/1.yaml", "e")):
        (folder / file).write_text(json.dumps(node(name)))
    assert "Successfully created 3" in place.ok("create", "-f", str(folder))
    assert names(place) == ["a", "b", "c"]
    assert "Successfully created 1" in place.ok("create", "--skip-exists", "-R", "-f", str(folder))
    assert names(place) == ["a", "b", "c", "e"]


def test_several_files(place: Place) -> None:
    """Every -f counts, in order."""
    for name in "ab":
        (place.folder / name).write_text(many(node(name)))
    files = [f"-f{place.folder}/{name}" for name in "ab"]
    assert place.ok("apply", *files) == "Successfully applied 2 'Node' resource(s)\n"
    assert names(place) == ["a", "b"]


def test_values_in_messages_are_cut_off(place: Place) -> None:
    said = place.fails("apply", "-f", "-", stdin=json.dumps(node("n", labels=["x" * 10_000])))
    assert len(said) < 400


def test_many_fields_are_read_in_time() -> None:
    """A look at each key for each key would take minutes."""
    lines = "".join(f"  k{at}: 1\n" for at in range(40_000))
    began = time.process_time()
    (found,) = yamltext.read_all(f"a:\n{lines}")
    assert len(found["a"]) == 40_000
    assert time.process_time() - began < 8


def test_a_few_aliases_are_fine() -> None:
    text = "a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: [*a, *b, {<<: [*a, *b]}]\n"
    (found,) = yamltext.read_all(text)
    assert found == {"a": {"x": 1}, "b": {"x": 2}, "c": [{"x": 1}, {"x": 2}, {"x": 1}]}


def test_nothing_to_do_is_an_error_unless_it_is_allowed(place: Place) -> None:
    folder, empty = place.folder / "in", place.folder / "empty.yaml"
    folder.mkdir()
    empty.write_text("# nothing\n---\n")
    for path, told in ((folder, f"directory {folder}"), (empty, f"file {empty}")):
        assert place.fails("apply", "-f", str(path)) == f"no resources specified in {told}"
        assert place.ok("apply", "--skip-empty", "-f", str(path)) == "No resources specified\n"


@pytest.mark.parametrize(("text", "told"), [
    (json.dumps(resource("IPPool", "p", {"cidrs": "10.1.0.0/16"})), 'unknown field "spec.cidrs"; known here: cidr, '),
    (json.dumps(node("n", {"bgp": {"asnumber": 1}})), 'unknown field "spec.bgp.asnumber"'),
    (json.dumps(node("n", lables={})), 'unknown field "metadata.lables"'),
    (json.dumps({**node("n"), "specs": {}}), 'unknown field "specs"'),
    (json.dumps(node("n", {"orchRefs": [{}, {"node": 1}]})), 'unknown field "spec.orchRefs[1].node"'),
    (json.dumps(pool("p", "10.1.0.0/16", blockSize="26")), "spec.blockSize is '26': expected a whole number"),
    (json.dumps(pool("p", "10.1.0.0/16", blockSize=True)), "spec.blockSize is True: expected a whole number"),
    (json.dumps(pool("p", "10.1.0.0/16", disabled="no")), "spec.disabled is 'no': expected true or false"),
    (json.dumps(pool("p", "10.1.0.0/16", allowedUses="Workload")), "spec.allowedUses is 'Workload': expected a list"),
    (json.dumps(node("n", labels={"a": 1})), "metadata.labels is {'a': 1}: expected strings by name"),
    (json.dumps({**node("n"), "spec": []}), "spec is []: expected fields by name"),
    (json.dumps({**node("n"), "kind": "Nodes"}), f"unknown resource type (Nodes) and/or version ({API}); types are"),
    (json.dumps({**node("n"), "apiVersion": "v1"}), "unknown resource type (Node) and/or version (v1)"),
    (json.dumps({**node("n"), "metadata": {}}), "Node: metadata.name must be set"),
    (json.dumps({"apiVersion": API, "kind": "NodeList", "items": {}}), "items of NodeList are {}: expected a list"),
    ("just words", "'just words' is not a resource"),
    ("{]", "is neither JSON nor YAML"),
    ("a: b: c", "is neither JSON nor YAML"),
    (HEAD + "metadata: {name: a}\nmetadata: {name: b}\n", 'field "metadata" is given twice'),
    ('{"kind": "Node", "kind": "Node"}', 'field "kind" is given twice'),
    ("a: &x [*x]\n", "recursion"),
    ("[" * 100_000, "recursion"),
    ("a: &x {<<: *x}\n", "recursion"),
    ("a0: &a0 [x, x]\n" + "".join(f"a{at}: &a{at} [*a{at - 1}, *a{at - 1}]\n" for at in range(1, 60)),
     "uses too many aliases"),
    ("a0: &a0 {x: 1}\n" + "".join(f"a{at}: &a{at} {{<<: [*a{at - 1}, *a{at - 1}]}}\n" for at in range(1, 60)),
     "uses too many aliases"),
    (f"a: &a {'x' * 1000}\nb: [{'*a, ' * 2000}]\n", "uses too many aliases"),
    (json.dumps(node("n", {"bgp": {"asNumber": "x" * 10_000}}, labels=[])).replace('"labels"', '"lable"'), "lable"),
    (json.dumps(node("n", {"bgp": {"asNumber": float("nan")}})), "nan is no number that JSON can hold"),
    (json.dumps(node("n")).replace("{}", '{"bgp": {"asNumber": 1e999}}'), "inf is no number"),
    (HEAD + "metadata: {name: n}\nspec: {bgp: {asNumber: !!float .inf}}\n", "inf is no number"),
    (json.dumps(node("n", labels={"a": "\ud800"})), r"'\ud800' cannot be written in UTF-8"),
    (HEAD + 'metadata: {name: n, annotations: {"\\ud800": x}}\n', r"'\ud800' cannot be written in UTF-8"),
])
def test_bad_input_is_named_and_nothing_is_done(place: Place, text: str, told: str) -> None:
    """Not even the sound resource before it is made."""
    file = place.folder / "in.yaml"
    file.write_text(text)
    (place.folder / "first").mkdir()
    (place.folder / "first" / "1.yaml").write_text(many(node("sound")))
    (place.folder / "first" / "2.yaml").write_text(text)
    for path, named in ((file, file), (place.folder / "first", place.folder / "first" / "2.yaml")):
        said = place.fails("create", "-f", str(path))
        assert said.startswith(f"failed to execute command: {named}: ")
        assert told in said
    assert not place.directory.exists()


def test_files_that_cannot_be_read(place: Place) -> None:
    assert place.fails("apply", "-f", "/nonexistent.yaml") == "/nonexistent.yaml: No such file or directory"
    file = place.folder / "in.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    assert "is not text in UTF-8" in place.fails("apply", "-f", str(file))


def test_null_is_not_set(place: Place) -> None:
    place.ok("create", "-f", "-", stdin=HEAD + "metadata: {name: a, labels: }\nspec: {bgp: null}\n")
    assert place.store.get(keys.node("a")).value["spec"] == {}


def test_get_and_delete_take_files(place: Place) -> None:
    """Of what a file says, only kind, name and namespace count."""
    place.create(node("a"), node("b"), pool("p", "10.1.0.0/16"))
    text = many(node("b", {"bgp": {"asNumber": 7}}), pool("p", "10.9.0.0/16"))
    found = json.loads(place.ok("get", "-f", "-", "-o", "json", stdin=text))
    assert [item["metadata"]["name"] for item in found] == ["b", "p"]
    assert found[1]["spec"]["cidr"] == "10.1.0.0/16"
    assert place.ok("delete", "-f", "-", stdin=text) == "Successfully deleted 2 resource(s)\n"
    assert names(place) == ["a"]


@pytest.mark.parametrize(("text", "value"), [
    ("52:54:00:12:34:56", "52:54:00:12:34:56"), ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"), ("2026-01-02",) * 2,
    ("12", 12), ("-3", -3), ("012", "012"), ("0x1f", "0x1f"), ("1_000", "1_000"), ("1.5", 1.5), ("true", True),
    ("no", False), ("~", None), ("", None), ("'12'", "12"), ("10.1.0.0/16", "10.1.0.0/16"), ("all()", "all()"),
])
def test_plain_scalars(text: str, value: object) -> None:
    """As Calico's reader has them: PyYAML alone would make a number of a MAC and a date of a time."""
    (found,) = yamltext.read_all(f"a: {text}")
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_written_yaml_is_read_back() -> None:
    """Text that looks like something else is quoted, lines are not folded, equal values are written out."""
    shared = ["x"]
    value = {"a": "12", "b": "2026-01-02", "c": "no", "d": "word " * 100, "e": shared, "f": shared, "g": "\x1b\n"}
    text = yamltext.write(value)
    assert list(yamltext.read_all(text)) == [value]
    assert "&" not in text
    assert text.count("\n") == 1 + len(value) + 1


@given(st.text() | st.text("0123456789.eE+-_:~<=>nNyY \n\t'#&*!|%@tru"))
def test_written_text_is_read_back_as_text(text: str) -> None:
    value = {"a": text, "b": [text], "c": {text: "1.5e3"}}
    assert list(yamltext.read_all(yamltext.write(value))) == [value]
