"""Calico's selector language: which labels something must have, e.g. `rack == "r1" && !has(gpu)`.

The grammar is that of libcalico-go lib/selector: `||` binds weakest, then `&&`, then `!`; words need no space around
them (`a notin{"x"}`); strings are in either kind of quote, without escapes; space and tab separate, nothing else does.
Depth and length are bounded here, so that no text can exhaust the stack.
"""

from __future__ import annotations

from datastore.frozen import frozen
from ipam.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Test = Callable[[Mapping[str, str]], bool]

LONGEST = 64 * 1024  # characters
LONGEST_KEY = 512  # Calico: LabelKeyMatcher
DEEPEST = 50  # parentheses within each other
SPACE = (" ", "\t")
KEY = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-")
OPERATORS = "==, !=, in, not in, contains, starts with or ends with"


def parse(text: str) -> Test:
    """Return the function that tells whether labels match the selector; an empty one matches all, as `all()` does.

    So does `global()`, which bears on what has a namespace and not on labels (Calico: GlobalNode.Evaluate; its
    validation keeps it out of a pool's nodeSelector). Raises BadRequest, saying where and what was expected.
    """
    if len(text) > LONGEST:
        raise BadRequest(f"selector has {len(text)} characters: expected at most {LONGEST}")
    reader = _Reader(text)
    if reader.at_end():
        return _everything
    test = _alternatives(reader, 0)
    if not reader.at_end():
        raise reader.wrong("&&, || or the end")
    return test


class _Reader:
    """A text being read from left to right; white space before what is asked for is passed over."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def at_end(self) -> bool:
        self._skip()
        return self.at == len(self.text)

    def take(self, *words: str) -> bool:
        """Move behind the words if they come next, with or without space between them; tell whether they did."""
        start = self.at
        for word in words:
            self._skip()
            if not self.text.startswith(word, self.at):
                self.at = start
                return False
            self.at += len(word)
        return True

    def require(self, word: str, expected: str) -> None:
        if not self.take(word):
            raise self.wrong(expected)

    def key(self, expected: str) -> str:
        self._skip()
        end = self.at
        while end < len(self.text) and self.text[end] in KEY:
            end += 1
        if not self.at < end <= self.at + LONGEST_KEY:
            raise self.wrong(expected if end == self.at else f"a label of at most {LONGEST_KEY} characters")
        start, self.at = self.at, end
        return self.text[start:end]

    def string(self) -> str:
        if not (self.take('"') or self.take("'")):
            raise self.wrong("a string in quotes")
        start = self.at
        end = self.text.find(self.text[start - 1], start)
        if end < 0:
            self.at -= 1
            raise self.wrong("a closing quote for this string")
        self.at = end + 1
        return self.text[start:end]

    def wrong(self, expected: str) -> BadRequest:
        self._skip()
        found = repr(self.text[self.at : self.at + 20]) if self.at < len(self.text) else "its end"
        return BadRequest(f"selector is wrong at character {self.at + 1}, {found}: expected {expected}")

    def _skip(self) -> None:
        while self.text.startswith(SPACE, self.at):
            self.at += 1


def _alternatives(reader: _Reader, depth: int) -> Test:
    tests = [_conjunction(reader, depth)]
    while reader.take("||"):
        tests.append(_conjunction(reader, depth))
    return tests[0] if len(tests) == 1 else lambda labels: any(test(labels) for test in tests)


def _conjunction(reader: _Reader, depth: int) -> Test:
    tests = [_operation(reader, depth)]
    while reader.take("&&"):
        tests.append(_operation(reader, depth))
    return tests[0] if len(tests) == 1 else lambda labels: all(test(labels) for test in tests)


def _operation(reader: _Reader, depth: int) -> Test:
    negated = False
    while reader.take("!"):
        negated = not negated
    test = _group(reader, depth + 1) if reader.take("(") else _primary(reader)
    return (lambda labels: not test(labels)) if negated else test


def _group(reader: _Reader, depth: int) -> Test:
    if depth > DEEPEST:
        raise reader.wrong(f"at most {DEEPEST} parentheses within each other")
    test = _alternatives(reader, depth)
    reader.require(")", "&&, || or )")
    return test


def _primary(reader: _Reader) -> Test:
    if reader.take("has("):
        key = reader.key("a label")
        reader.require(")", ") after the label of has(")
        return lambda labels: key in labels
    for name in ("all(", "global("):
        if reader.take(name):
            reader.require(")", f") after {name}")
            return _everything
    return _comparison(reader, reader.key("a label, has(, all(, global(, ! or ("))


def _comparison(reader: _Reader, key: str) -> Test:
    for operator in COMPARISONS:
        if reader.take(*operator.words):
            return operator.test(key, reader.string())
    if reader.take("in"):
        values = _strings(reader)
        return lambda labels: labels.get(key) in values
    if reader.take("not", "in"):
        values = _strings(reader)
        return lambda labels: labels.get(key) not in values
    raise reader.wrong(OPERATORS)


def _strings(reader: _Reader) -> frozenset[str]:
    """Return the strings in braces; as in Calico there may be none, and a comma after the last."""
    reader.require("{", "{ and a list of strings")
    values = set()
    while not reader.take("}"):
        values.add(reader.string())
        if not reader.take(","):
            reader.require("}", ", or }")
            break
    return frozenset(values)


def _everything(_: Mapping[str, str]) -> bool:
    return True


@frozen
class _Operator:
    """Words that compare a label with one string; a label that is absent is only ever unequal."""

    words: Sequence[str]
    test: Callable[[str, str], Test]


COMPARISONS = (
    _Operator(("==",), lambda key, value: lambda labels: labels.get(key) == value),
    _Operator(("!=",), lambda key, value: lambda labels: labels.get(key) != value),
    _Operator(("contains",), lambda key, value: lambda labels: key in labels and value in labels[key]),
    _Operator(("starts", "with"), lambda key, value: lambda labels: key in labels and labels[key].startswith(value)),
    _Operator(("ends", "with"), lambda key, value: lambda labels: key in labels and labels[key].endswith(value)),
)
