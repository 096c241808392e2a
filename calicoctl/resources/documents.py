"""What people hand in with -f: resources in files, directories and stdin, as YAML or JSON, one or many.

A file holds documents; a document is a resource, a list of one kind (IPPoolList), a `List` of any, or a sequence. Every
resource is held to the fields of its kind before anything is done with any of them.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from calicoctl.resources import kinds
from calicoctl.resources.fields import check, refuse_unstorable, without_nulls
from calicoctl.resources.rules import endpoint_names
from calicoctl.table import brief
from ipam.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from datastore.api import Json

STDIN = "-"
ENDINGS = (".yaml", ".yml", ".json")


def load(paths: Iterable[str], recursive: bool = False, skip_empty: bool = False) -> list[Json]:
    """Return the resources in files, in the files of directories, and on stdin, in order.

    Raises BadRequest, naming file and field; also when there is no resource, unless skip_empty. Raises OSError.
    """
    return [found for path in paths for found in _below(path, recursive, skip_empty)]


def _below(path: str, recursive: bool, skip_empty: bool) -> list[Json]:
    found = []
    for name in files(path, recursive):
        resources = _in_file(name)
        if not resources and not skip_empty:
            raise BadRequest(f"no resources specified in file {name}")
        found += resources
    if not found and not skip_empty:
        raise BadRequest(f"no resources specified in directory {path}")
    return found


def files(path: str, recursive: bool) -> Iterator[str]:
    """Yield the files that a path stands for: itself, or those of a directory that are YAML or JSON, in name order."""
    if path == STDIN or not os.path.isdir(path):
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(folders) if recursive else []
        yield from (os.path.join(folder, name) for name in sorted(names) if name.lower().endswith(ENDINGS))


def resource(value: object) -> Json:
    """Return what a document says, if it is a sound resource of a known kind; raises BadRequest, naming the field."""
    refuse_unstorable(value)
    value = without_nulls(value)
    if not isinstance(value, dict):
        raise BadRequest(f"{brief(value)} is not a resource: expected apiVersion, kind, metadata and spec")
    kind = kinds.of(value)
    check(value, kind.schema, "")
    metadata = value.get("metadata", {})
    if not metadata.get("name"):
        if kind is not kinds.WORKLOADENDPOINT:
            raise BadRequest(f"{kind.name}: metadata.name must be set")
        metadata = {"name": endpoint_names(value.get("spec", {}))[0], **metadata}
    return {"apiVersion": kinds.API_VERSION, "kind": kind.name, **value, "metadata": metadata,
            "spec": value.get("spec", {})}


def _in_file(name: str) -> list[Json]:
    try:
        return [resource(value) for document in _parse(_read(name)) for value in _flat(document)]
    except (BadRequest, RecursionError) as error:
        where = "standard input" if name == STDIN else name
        raise BadRequest(f"failed to execute command: {where}: {error}") from error


def _read(name: str) -> str:
    try:
        if name == STDIN:
            return sys.stdin.buffer.read().decode("utf-8-sig")
        with open(name, encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise BadRequest(f"is not text in UTF-8: {error}") from error


def _parse(text: str) -> list[Any]:
    """Return the documents in a text. YAML is asked for only when the text is not JSON."""
    try:
        return [json.loads(text, object_pairs_hook=_unique)]
    except ValueError:
        pass  # then it is YAML, or the YAML reader says what is wrong with it
    import yaml

    from calicoctl import yamltext

    try:
        return [document for document in yamltext.read_all(text) if document is not None]
    except (yaml.YAMLError, ValueError) as error:
        raise BadRequest(f"is neither JSON nor YAML: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    found: Json = {}
    for name, value in pairs:
        if name in found:
            raise BadRequest(f'field "{name}" is given twice')
        found[name] = value
    return found


def _flat(document: object) -> Iterator[object]:
    """Yield the resources of a document; those of a list of one kind need not say their kind."""
    if isinstance(document, list):
        for item in document:
            yield from _flat(item)
    elif isinstance(document, dict) and str(document.get("kind")).endswith("List"):
        yield from _flat(_items(document))
    else:
        yield document


def _items(document: Json) -> list[object]:
    items, name = document.get("items"), document["kind"].removesuffix("List")
    if not isinstance(items, list):
        raise BadRequest(f"items of {document['kind']} are {brief(items)}: expected a list")
    version = {"apiVersion": document.get("apiVersion")}
    typed: Iterable[object] = ({**version, "kind": name, **item} if name and isinstance(item, dict) else item
                               for item in items)
    return list(typed)
