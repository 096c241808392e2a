"""The lean JSON gives the library's answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datastore.jsontext import dumps, loads

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_round_trip(value: object) -> None:
    """What is written is what the library writes, and is read back equal, by either."""
    text = dumps(value)
    assert text.decode() == json.dumps(value, separators=(",", ":"))
    assert loads(text) == json.loads(text) == value
    assert loads(b" \n" + json.dumps(value, indent=1).encode() + b"\t") == value


@given(st.binary(max_size=30) | st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \n\\u', max_size=30).map(str.encode))
def test_any_bytes(data: bytes) -> None:
    """What the library takes as UTF-8 JSON is taken, with the same value; what it refuses is a ValueError."""
    try:
        expected = json.loads(data.removeprefix(b"\xef\xbb\xbf").decode())
    except ValueError:
        with pytest.raises(ValueError):
            loads(data)
        return
    assert repr(loads(data)) == repr(expected)


@pytest.mark.parametrize("text", ["", "{", "[1] x", '{"a":1,}', "nul", '"', "[1 2]"])
def test_errors_where_json_was_not_loaded(text: str) -> None:
    """In a process that has not imported json, as the plugin's, wrong text is the library's error too."""
    code = "import sys; sys.path[:0] = sys.argv[1:2]\nfrom datastore.jsontext import loads\n" \
           "assert 'json' not in sys.modules\ntry: loads(sys.argv[2].encode())\nexcept ValueError as e: print(repr(e))"
    command = [sys.executable, "-IS", "-c", code, str(Path(__file__).parents[2]), text]
    assert "JSONDecodeError" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_edges() -> None:
    """A byte order mark is passed over; deep nesting, circles and odd values are errors that say so."""
    assert loads(b'\xef\xbb\xbf{"a": 1785578400000000007}') == {"a": 1785578400000000007}
    with pytest.raises(RecursionError):
        loads(b"[" * 100_000)
    with pytest.raises(TypeError):
        dumps({"a": {1, 2}})
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="ircular"):
        dumps(circle)
