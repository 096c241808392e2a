"""Calico's selectors: its own cases (libcalico-go lib/selector), what is refused and where, and a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.errors import BadRequest
from ipam.selector import DEEPEST, LONGEST, parse

Labels = dict[str, str]
A, B, AB = {"a": "a1"}, {"b": "b1"}, {"a": "a1", "b": "b1"}
EVERY: list[Labels] = [{}, A, B, AB]

CASES: list[tuple[str, list[Labels], list[Labels]]] = [
    ("", EVERY, []),
    (" \t", EVERY, []),
    ("all()", EVERY, []),
    (" all( ) ", EVERY, []),
    ("!all()", [], EVERY),
    ("global()", EVERY, []),
    ("has(a)", [A, AB, {"a": ""}], [{}, B]),
    ("has( a )", [A, AB], [{}, B]),
    ("!has(a)", [{}, B], [A, AB]),
    ("!!! has(a)", [{}, B], [A, AB]),
    ("! !has(a)", [A, AB], [{}, B]),
    ("has(a) && !has(b)", [A], [{}, B, AB]),
    ("!(!has(a) || has(b))", [A], [{}, B, AB]),
    ("a == 'a1'", [A, AB], [{}, B, {"a": "a"}]),
    ('a=="a1"', [A, AB], [{}, B]),
    ("a != 'a1'", [{}, B, {"a": ""}], [A, AB]),
    ("!a == 'a1'", [{}, B], [A, AB]),
    ("a == ''", [{"a": ""}], [{}, A]),
    ("a in {'x', \"a1\"}", [A, AB], [{}, B]),
    ("a in{'a1',}", [A], [{}]),
    ("a in {}", [], EVERY),
    ("a not in {}", EVERY, []),
    ("a not in {'a1'}", [{}, B], [A, AB]),
    ("a notin\t{'a1'}", [{}, B], [A, AB]),
    ("!a in {'a1'}", [{}, B], [A, AB]),
    ("a in {\"'\", '\"'}", [{"a": "'"}, {"a": '"'}], [A]),
    ("a contains 'a'", [A, {"a": "bab"}], [{}, B, {"a": "b"}]),
    ("a contains ''", [A, {"a": ""}], [{}, B]),
    ("a contains\"1\"", [A], [B]),
    ("a starts with 'a'", [A, {"a": "a"}], [{}, {"a": "ba"}]),
    ("a startswith ''", [A, {"a": ""}], [{}, B]),
    ("a ends  with '1'", [A], [{}, {"a": "1a"}]),
    ("a endswith''", [A], [B]),
    ("a == 'a1' && b == 'b1' || c == 'c1'", [AB, {"c": "c1"}], [{}, A, B]),
    ("c == 'c1' || a == 'a1' && b == 'b1'", [AB, {"c": "c1"}], [{}, A, B]),
    ("(c == 'c1' || a == 'a1') && b == 'b1'", [AB, {"c": "c1", "b": "b1"}], [{}, A, {"c": "c1"}]),
    ("a == 'a1'&&!has(b)||has(b)", [A, B, AB], [{}]),
    ("(((has(a))))", [A], [B]),
    ("a == '\\'", [{"a": "\\"}], [A]),
    ("a == 'line\nbreak é'", [{"a": "line\nbreak é"}], [A]),
    # Words of the language are labels where a label stands.
    ("contains contains 'contains'", [{"contains": "contains"}], [{}]),
    ("in in {'in'}", [{"in": "in"}], [{}]),
    ("not not in {'x'}", [{}, {"not": "y"}], [{"not": "x"}]),
    ("starts starts with 'x'", [{"starts": "xy"}], [{}]),
    ("has == 'x' && all == 'y'", [{"has": "x", "all": "y"}], [{}]),
    ("has(has)", [{"has": ""}], [{}]),
    ("hash == 'x' || allow == 'y' || globally == 'z'", [{"hash": "x"}, {"allow": "y"}, {"globally": "z"}], [{}]),
    ("has(calico/k8s_NS-.1/role)", [{"calico/k8s_NS-.1/role": ""}], [{}]),
    ("projectcalico.org/ns == 'x' && -._/ != 'y'", [{"projectcalico.org/ns": "x"}], [{}]),
    (f"has({'k' * 512})", [{"k" * 512: ""}], [{}]),
]


@pytest.mark.parametrize(("text", "matching", "others"), CASES)
def test_what_matches(text: str, matching: list[Labels], others: list[Labels]) -> None:
    """A selector matches these labels, and not those."""
    selector = parse(text)
    assert [selector(labels) for labels in matching] == [True] * len(matching)
    assert [selector(labels) for labels in others] == [False] * len(others)


@pytest.mark.parametrize(("text", "at", "expected"), [
    ("b == b", 6, "a string in quotes"),
    ("b contains b", 12, "a string in quotes"),
    ("b starts with b", 15, "a string in quotes"),
    ("b starts foo 'b'", 3, "starts with"),
    ("b squiggles 'b'", 3, "contains"),
    ("'b1' == b", 1, "a label"),
    ("b", 2, "=="),
    ("a b", 3, "=="),
    ("a = 'b'", 3, "=="),
    ("a ! = 'b'", 3, "!="),
    ("a !== 'b'", 5, "a string in quotes"),
    ("!", 2, "a label"),
    ("!=has(a)", 2, "a label"),
    ("foo == 'bar' &", 14, "&&, || or the end"),
    ("foo == 'bar' |", 14, "&&, || or the end"),
    ("foo == 'bar' baz", 14, "&&, || or the end"),
    ("foo == 'bar')", 13, "&&, || or the end"),
    ("has(a) has(b)", 8, "&&, || or the end"),
    ("foo == 'bar' &&", 16, "a label"),
    ("foo != ||", 8, "a string in quotes"),
    ("foo in {'', ||", 13, "a string in quotes"),
    ("foo in {'' ''}", 12, ", or }"),
    ("foo in {,}", 9, "a string in quotes"),
    ("foo in {'a'", 12, ", or }"),
    ("foo in ''", 8, "{ and a list"),
    ("a == \"b'", 6, "a closing quote"),
    ("a == 'b' || c == '", 18, "a closing quote"),
    ("(", 2, "a label"),
    ("()", 2, "a label"),
    (")", 1, "a label"),
    ("(a == 'foo'", 12, "&&, || or )"),
    ("%", 1, "a label"),
    ("a == 'b' && %", 13, "a label"),
    ("has(", 5, "a label"),
    ("has()", 5, "a label"),
    ("has(a", 6, ") after the label"),
    ("has('a')", 5, "a label"),
    ("has (a)", 5, "=="),
    ("all(x)", 5, ") after all("),
    ("all ()", 5, "=="),
    ("global(", 8, ") after global("),
    ("has(a)\n", 7, "&&, || or the end"),
    ("é == 'a'", 1, "a label"),
    (f"has({'k' * 513})", 5, "a label of at most 512"),
    ("!" * LONGEST + "a", None, f"at most {LONGEST}"),
    ("(" * (DEEPEST + 1) + "has(a)" + ")" * (DEEPEST + 1), DEEPEST + 2, f"at most {DEEPEST}"),
    ("!(" * 30000 + "all()" + ")" * 2000, None, f"at most {DEEPEST}"),
])
def test_what_is_refused(text: str, at: int | None, expected: str) -> None:
    """Anything else is refused, with the place and what was expected there, in a message of reasonable length."""
    with pytest.raises(BadRequest) as refusal:
        parse(text)
    message = str(refusal.value)
    assert expected in message.partition("expected")[2]
    assert at is None or f"at character {at}," in message
    assert len(message) < 200


def test_the_deepest_and_the_longest() -> None:
    """What is within the bounds is parsed and evaluated."""
    deepest = parse("!(all() && has(a) || " * DEEPEST + "has(b)" + ")" * DEEPEST)
    assert (deepest({}), deepest({"b": ""})) == (False, True)
    many = " || ".join(["a == 'x'"] * 5000)
    assert parse(many)({"a": "x"})
    assert not parse("!" * (LONGEST - 5) + "all()")({})


Node = tuple[Any, ...]
KEYS = st.sampled_from(["a", "b", "in", "not", "has", "k8s.io/x-y_z"])
VALUES = st.sampled_from(["", "x", "xy", "'", " &&"])
MODEL: dict[str, Callable[[str | None, Any], bool]] = {
    "==": lambda value, wanted: value == wanted,
    "!=": lambda value, wanted: value != wanted,
    "contains": lambda value, wanted: value is not None and wanted in value,
    "starts with": lambda value, wanted: value is not None and value.startswith(wanted),
    "ends with": lambda value, wanted: value is not None and value.endswith(wanted),
    "in": lambda value, wanted: value in wanted,
    "not in": lambda value, wanted: value not in wanted,
}
LEAVES = st.one_of(
    st.just(("all",)),
    st.tuples(st.just("has"), KEYS),
    st.tuples(st.sampled_from(["==", "!=", "contains", "starts with", "ends with"]), KEYS, VALUES),
    st.tuples(st.sampled_from(["in", "not in"]), KEYS, st.lists(VALUES, max_size=3)),
)
NODES: st.SearchStrategy[Node] = st.recursive(LEAVES, lambda nodes: st.one_of(
    st.tuples(st.just("!"), nodes),
    st.tuples(st.sampled_from(["&&", "||"]), st.lists(nodes, min_size=1, max_size=3)),
), max_leaves=8)


def evaluate(node: Node, labels: Labels) -> bool:
    match node:
        case ("all",):
            return True
        case ("has", key):
            return key in labels
        case ("!", inner):
            return not evaluate(inner, labels)
        case ("&&", inner):
            return all(evaluate(each, labels) for each in inner)
        case ("||", inner):
            return any(evaluate(each, labels) for each in inner)
    return MODEL[node[0]](labels.get(node[1]), node[2])


def quote(value: str) -> str:
    return f'"{value}"' if "'" in value else f"'{value}'"


def write(node: Node, above: int, space: Callable[[], str]) -> str:
    """Return the selector in text, in parentheses only where it must be. `above` is how tightly the context binds."""
    match node:
        case ("all",):
            return f"all({space()})"
        case ("has", key):
            return f"has({space()}{key}{space()})"
        case ("!", inner):
            return f"!{space()}{write(inner, 3, space)}"
        case ("&&" | "||" as word, inner):
            binding = 2 if word == "&&" else 1
            text = f"{space()}{word}{space()}".join(write(each, binding + 1, space) for each in inner)
            return f"({space()}{text}{space()})" if above > binding else text
        case ("in" | "not in" as word, key, values):
            return f"{key} {word}{space()}{{{space()}{f'{space()},{space()}'.join(map(quote, values))}{space()}}}"
    return f"{node[1]} {node[0].replace(' ', space())}{space()}{quote(node[2])}"


@given(NODES, st.dictionaries(KEYS, VALUES), st.data())
def test_against_a_model(node: Node, labels: Labels, data: st.DataObject) -> None:
    """However an expression is written, it says of labels what the model says of them."""
    text = write(node, 0, lambda: data.draw(st.sampled_from(["", " ", "\t "])))
    assert parse(text)(labels) == evaluate(node, labels), text


@given(st.text(alphabet="a!&|(){}=,'\" \tnotihswec\n", max_size=40) | st.text(max_size=20))
def test_nothing_but_a_refusal(text: str) -> None:
    """Whatever the text, the answer is a function or BadRequest."""
    try:
        selector = parse(text)
    except BadRequest:
        return
    assert selector({"a": "b"}) in (True, False)
