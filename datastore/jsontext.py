"""JSON text of objects, both ways, by the C routines of the standard library's `json`.

`json` itself imports `re` for its pure-Python half, and with it `enum`: 8 ms, as much as the interpreter's own start
and a quarter of an ADD. Where an interpreter lacks these routines, `json` serves. tests/unit/test_jsontext.py holds
both ways to the same answers.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BOM = b"\xef\xbb\xbf"
SPACE = " \t\n\r"  # RFC 8259 section 2

try:
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    class _Reading:
        """The options of json.JSONDecoder, as the scanner asks for them."""

        strict = True
        object_hook = object_pairs_hook = None
        parse_float = float
        parse_int = int
        parse_constant = float
        memo: dict[str, str] = {}  # noqa: RUF012  # the scanner's own, emptied after each text

    def _refuse(value: object) -> object:
        raise TypeError(f"{value!r} has no JSON form")

    _scan = make_scanner(_Reading())  # type: ignore[arg-type]  # typeshed wants a scanner to make a scanner
    make_encoder({}, _refuse, encode_basestring_ascii, None, ":", ",", False, False, True)

    def loads(data: bytes) -> Any:
        """Return the value in UTF-8 JSON text; raises ValueError, RecursionError."""
        text = data.removeprefix(BOM).decode().strip(SPACE)
        try:
            value, end = _scan(text, 0)
        except (StopIteration, ValueError, SystemError):  # the last: it needs json.decoder to say what is wrong
            value, end = None, -1
        if end == len(text):
            return value
        import json

        return json.loads(text)  # which says what is wrong

    def dumps(value: object) -> bytes:
        """Return the JSON text of a value, in ASCII, on one line; raises TypeError."""
        encode = make_encoder({}, _refuse, encode_basestring_ascii, None, ":", ",", False, False, True)
        return "".join(encode(value, 0)).encode()

except (ImportError, TypeError):
    import json

    def loads(data: bytes) -> Any:
        """Return the value in JSON text; raises ValueError, RecursionError."""
        return json.loads(data)

    def dumps(value: object) -> bytes:
        """Return the JSON text of a value, in ASCII, on one line; raises TypeError."""
        return json.dumps(value, separators=(",", ":")).encode()
