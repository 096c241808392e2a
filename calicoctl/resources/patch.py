"""Changing a part of a resource: JSON Merge Patch (RFC 7386), JSON Patch (RFC 6902), Kubernetes' strategic merge.

For the kinds here strategic merge is a merge patch with two directives more: in Calico's types no list has a merge key,
so a list is replaced as a whole (k8s.io/apimachinery util/strategicpatch).
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from ipam.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from datastore.api import Json

DIRECTIVE = "$patch"


def patched(resource: Json, text: str, how: str) -> Any:
    """Return the resource with the patch in the text applied; how: a name in TYPES. Raises BadRequest."""
    try:
        patch = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the patch is not JSON: {error}") from error
    return TYPES[how](resource, patch)


def merged(target: Any, patch: Any) -> Any:
    """Return the target after a merge patch: mappings are merged, null removes a field, all else takes its place."""
    if not isinstance(patch, dict):
        return patch
    target = target if isinstance(target, dict) else {}
    kept = {name: value for name, value in target.items() if name not in patch}
    given = {name: merged(target.get(name), value) for name, value in patch.items() if value is not None}
    return {name: {**kept, **given}[name] for name in [*target, *patch] if name in kept or name in given}


def strategic(target: Any, patch: Any) -> Any:
    """Return the target after a strategic merge patch; `$patch: replace` and `$patch: delete` bear on a mapping."""
    if not isinstance(patch, dict):
        return patch
    directive = patch.get(DIRECTIVE, "merge")
    if directive not in ("merge", "replace", "delete"):
        raise BadRequest(f'{DIRECTIVE} is "{directive}": expected merge, replace or delete')
    if directive == "delete":
        return {}
    target = target if isinstance(target, dict) and directive == "merge" else {}
    plain = {name: value if value is None else strategic(target.get(name), value)
             for name, value in patch.items() if name != DIRECTIVE}
    return {name: value for name, value in {**target, **plain}.items() if value is not None}


def _operations(target: Json, patch: Any) -> Any:
    """Return the target after a JSON Patch, which is a list of operations."""
    import jsonpatch
    import jsonpointer

    try:
        return jsonpatch.JsonPatch(patch).apply(copy.deepcopy(target))
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError, ValueError) as error:
        raise BadRequest(f"the JSON patch cannot be applied: {error}") from error


TYPES: dict[str, Callable[[Any, Any], Any]] = {"strategic": strategic, "json": _operations, "merge": merged}
