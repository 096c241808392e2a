"""The commands for resources: `get`, `create`, `apply`, `replace`, `delete`, `patch`, `label`, `validate`.

Words, options and messages are Calico's (calicoctl commands/crud_commands.go); resources.py does the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from calicoctl.command import CONTEXT, EXIT_CODES, Failure, global_options, the_store
from calicoctl.completion import kind_words, resource_names
from calicoctl.resources import documents, kinds, printing, resources
from calicoctl.resources.fields import is_utf8
from calicoctl.resources.patch import TYPES
from datastore.api import Exists, Missing, Refused, StoreError, Unreachable
from ipam.errors import BadRequest, IpamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from calicoctl.resources.kinds import Kind
    from calicoctl.resources.printing import Answer
    from datastore.api import Json, Store

Function = TypeVar("Function", bound="Callable[..., Any]")

GONE = (Unreachable, Refused)  # errors that every further resource would have, too: no server, or none that serves us

KINDS_HELP = f"""\b
Kinds (any case, singular or plural), and their short names:
{chr(10).join(f"  {kind.words[0]:<20}{', '.join(kind.words[2:])}".rstrip() for kind in kinds.KINDS)}
"""


def epilog(examples: str) -> str:
    """Return the end of a command's help."""
    return f"\b\nExamples:\n{examples}\n\n{KINDS_HELP}\n{EXIT_CODES}\n"


def namespace_option(function: Function) -> Function:
    """Add -n/--namespace."""
    return click.option("-n", "--namespace", metavar="NAME",
                        help="Namespace of a WorkloadEndpoint.  [default: default]")(function)


def file_options(function: Function) -> Function:
    """Add the options that say where resources are read from."""
    for option in (
        click.option("--skip-empty", is_flag=True, help="Take files without a resource as no error."),
        click.option("-R", "--recursive", is_flag=True, help="With -f DIRECTORY: and those below it."),
        click.option("-f", "--filename", "filenames", metavar="PATH", multiple=True,
                     help="YAML or JSON file, directory of such files, or - for stdin; may be given several times."),
    ):
        function = option(function)
    return function


def kind_argument(required: bool) -> Callable[[Function], Function]:
    """Add the argument KIND."""
    metavar = "KIND" if required else "[KIND]"
    return click.argument("kind", required=required, shell_complete=kind_words, metavar=metavar)


def name_arguments(count: int) -> Callable[[Function], Function]:
    """Add the argument NAME, so many times, or as often as people like for -1."""
    return click.argument("names", nargs=count, required=count > 0, shell_complete=resource_names,
                          metavar="NAME" if count > 0 else "[NAME]...")


@click.command(context_settings=CONTEXT, epilog=epilog("""\
  calicoctl get ippools -o wide
  calicoctl get ippool default-ipv4-ippool -o yaml
  calicoctl get workloadendpoints -A -o json
  calicoctl get nodes -o custom-columns=NAME,IPV4
  calicoctl get -f pools.yaml"""))
@kind_argument(required=False)
@name_arguments(-1)
@click.option("-o", "--output", "form", default="ps", show_default=True, metavar="FORM",
              shell_complete=lambda ctx, param, start: [form for form in (*printing.FORMS, printing.CUSTOM)
                                                        if form.startswith(start)],
              help="ps, wide, yaml, json, or custom-columns=HEADING,…")
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="WorkloadEndpoints of all namespaces.")
@click.option("--export", is_flag=True, help="Without what ties a named resource to this datastore.")
@namespace_option
@file_options
@global_options
def get(kind: str | None, names: tuple[str, ...], form: str, everywhere: bool, export: bool,
        namespace: str | None, **source: Any) -> None:
    """Show resources: those of a kind, those named, or those that a file names."""
    if not printing.is_form(form):
        raise click.UsageError(f"unrecognized output format '{form}': expected {', '.join(printing.FORMS)} or "
                               f"{printing.CUSTOM}HEADING,…; instead of a go-template, use json and a program like jq.")
    wanted = _named(kind, names, source) or [_stub(kinds.named(kind or ""))]
    if everywhere and (namespace or names):
        raise click.UsageError("--all-namespaces is for all resources of a kind, without a name and a --namespace.")
    store = the_store()
    answers, errors = [], []
    for resource in wanted:
        try:
            answers.append(_answer(store, resource, namespace, everywhere))
        except (StoreError, IpamError) as error:
            errors.append(str(error))
            if isinstance(error, GONE):
                break
    if answers:
        printing.show([answer.exported() if export else answer for answer in answers], form,
                      with_namespace=everywhere or bool(namespace))
    if errors:
        raise Failure("; ".join(errors))


def _answer(store: Store, wanted: Json, namespace: str | None, everywhere: bool) -> Answer:
    kind = kinds.of(wanted)
    metadata = _placed(kind, wanted, namespace, everywhere)["metadata"]
    if "name" in metadata:
        return printing.Answer(kind, [resources.get(store, kind, metadata)], False)
    return printing.Answer(kind, list(resources.listed(store, kind, metadata.get("namespace", ""))), True)


@click.command(context_settings=CONTEXT, epilog=epilog("""\
  calicoctl create -f pool.yaml
  calicoctl create --skip-exists -f - < pools.yaml"""))
@click.option("--skip-exists", is_flag=True, help="Pass over resources that exist already.")
@namespace_option
@file_options
@global_options
def create(skip_exists: bool, namespace: str | None, **source: Any) -> None:
    """Create resources; one that exists already is an error."""
    _change(_from_file(source), namespace, resources.create, ("create", "created"), Exists if skip_exists else None)


@click.command(context_settings=CONTEXT, epilog=epilog("""\
  calicoctl apply -f pool.yaml
  calicoctl apply -R -f ./network
  calicoctl get ippool p -o yaml | sed s/disabled:.*/disabled:\\ true/ | calicoctl apply -f -"""))
@namespace_option
@file_options
@global_options
def apply(namespace: str | None, **source: Any) -> None:
    """Create resources, or replace those that exist already. Labels and annotations are added to those stored."""
    _change(_from_file(source), namespace, resources.apply, ("apply", "applied"))


@click.command(context_settings=CONTEXT, epilog=epilog("""\
  calicoctl replace -f pool.yaml"""))
@namespace_option
@file_options
@global_options
def replace(namespace: str | None, **source: Any) -> None:
    """Replace resources; one that does not exist is an error."""
    _change(_from_file(source), namespace, resources.replace, ("replace", "replaced"))


@click.command(context_settings=CONTEXT, epilog=epilog("""\
  calicoctl validate -f pool.yaml"""))
@namespace_option
@file_options
@global_options
def validate(namespace: str | None, **source: Any) -> None:
    """Tell whether apply would take these resources. Nothing is written."""
    sound: list[Json] = []

    def act(store: Store, resource: Json) -> None:
        resources.validate(store, resource, sound)
        sound.append(resource)

    _change(_from_file(source), namespace, act, ("validate", "validated"))


@click.command(context_settings=CONTEXT, epilog=epilog("""\
  calicoctl delete ippool old-pool
  calicoctl delete -s -f pools.yaml
  calicoctl delete node gone-1 gone-2"""))
@kind_argument(required=False)
@name_arguments(-1)
@click.option("-s", "--skip-not-exists", is_flag=True, help="Pass over resources that do not exist.")
@namespace_option
@file_options
@global_options
def delete(kind: str | None, names: tuple[str, ...], skip_not_exists: bool, namespace: str | None,
           **source: Any) -> None:
    """Delete resources. A pool's and a node's blocks are released first; addresses in use stay until their DEL."""
    if kind and not names:
        raise click.UsageError("Which one? Give its NAME, or several.")
    _change(_named(kind, names, source), namespace, resources.delete, ("delete", "deleted"),
            Missing if skip_not_exists else None)


@click.command(context_settings=CONTEXT, epilog=epilog("""\
  calicoctl patch ippool p -p '{"spec": {"disabled": true}}'
  calicoctl patch node n1 -t merge -p '{"metadata": {"labels": {"rack": null}}}'
  calicoctl patch ippool p -t json -p '[{"op": "replace", "path": "/spec/natOutgoing", "value": true}]'"""))
@kind_argument(required=True)
@name_arguments(1)
@click.option("-p", "--patch", "text", required=True, metavar="JSON", help="The patch.")
@click.option("-t", "--type", "how", type=click.Choice(list(TYPES)), default="strategic", show_default=True,
              help="What kind of patch it is: strategic merge, JSON Patch (RFC 6902), merge patch (RFC 7386).")
@namespace_option
@global_options
def patch(kind: str, names: str, text: str, how: str, namespace: str | None) -> None:
    """Change a part of a resource that exists."""
    wanted = _placed_one(kind, names, namespace)
    try:
        resources.patch(the_store(), kinds.of(wanted), wanted["metadata"], text, how)
    except (StoreError, IpamError) as error:
        raise Failure(f"hit error: {error}") from error
    click.echo(f"Successfully patched 1 '{wanted['kind']}' resource")


@click.command(context_settings=CONTEXT, epilog=epilog("""\
  calicoctl label node n1 rack=r1
  calicoctl label node n1 rack=r2 --overwrite
  calicoctl label node n1 rack --remove"""))
@kind_argument(required=True)
@name_arguments(1)
@click.argument("text", metavar="LABEL[=VALUE]")
@click.option("--overwrite", is_flag=True, help="Change the value that the label has.")
@click.option("--remove", is_flag=True, help="Remove the label.")
@namespace_option
@global_options
def label(kind: str, names: str, text: str, overwrite: bool, remove: bool, namespace: str | None) -> None:
    """Set, change or remove a label of a resource."""
    name, equals, value = text.partition("=")
    if bool(equals) == remove or (overwrite and remove) or "=" in value:
        raise click.UsageError("Give LABEL=VALUE, with or without --overwrite, or LABEL --remove.")
    wanted, who = _placed_one(kind, names, namespace), f"{kind} {names}"
    done: list[str] = []

    def change(labels: Json) -> Json:
        done[:] = [_label_change(labels, name, value, overwrite, remove, who)]
        others = {key: item for key, item in labels.items() if key != name}
        return others if remove else {**others, name: value}

    resources.label(the_store(), kinds.of(wanted), wanted["metadata"], change)
    click.echo(f"Successfully {done[0]} {who}")


def _label_change(labels: Json, name: str, value: str, overwrite: bool, remove: bool, who: str) -> str:
    """Return in words what is done to a label; raises BadRequest when it may not be done."""
    if remove:
        if name not in labels:
            raise BadRequest(f"cannot remove label of {who}, key {name} does not exist")
        return f"removed label {name} from"
    if name not in labels:
        return f"set label {name} on"
    if not overwrite and labels[name] != value:
        raise BadRequest(f"failed to update label of {who}, key {name} is {labels[name]}: --overwrite changes it")
    return f"updated label {name} on"


def _from_file(source: dict[str, Any]) -> list[Json]:
    if not source["filenames"]:
        raise click.UsageError("Which resources? Give -f FILE.")
    return documents.load(source["filenames"], source["recursive"], source["skip_empty"])


def _named(kind: str | None, names: Sequence[str], source: dict[str, Any]) -> list[Json]:
    """Return the resources that the command line names, of which only kind and name are known, or those of a file."""
    if (kind is None) != bool(source["filenames"]):
        raise click.UsageError("Which resources? Give either KIND, with or without NAME, or -f FILE.")
    return _from_file(source) if kind is None else [_stub(kinds.named(kind), name) for name in names]


def _stub(kind: Kind, *name: str) -> Json:
    """Return what is known of a resource that is named on the command line, or of all of a kind."""
    return {"apiVersion": kinds.API_VERSION, "kind": kind.name, "metadata": dict(zip(("name",), name, strict=False))}


def _placed_one(word: str, name: str, namespace: str | None) -> Json:
    kind = kinds.named(word)
    return _placed(kind, _stub(kind, name), namespace)


def _placed(kind: Kind, resource: Json, namespace: str | None, everywhere: bool = False) -> Json:
    """Return the resource in its namespace: its own, else the one asked for, else `default`; raises BadRequest."""
    own = resource["metadata"].get("namespace")
    for part in (resource["metadata"].get("name", "-"), namespace or "-", own or "-"):
        if not part or "/" in part or not is_utf8(part):
            raise BadRequest(f"'{part}' is no name: it must neither be empty nor have a slash, and be UTF-8")
    if not kind.namespaced:
        if own or namespace or everywhere:
            raise BadRequest(f"{kind.name} is not namespaced")
        return resource
    if own and namespace and own != namespace:
        raise BadRequest(f"resource namespace does not match client namespace. {own} != {namespace}")
    place = "" if everywhere else own or namespace or kinds.DEFAULT_NAMESPACE
    return {**resource, "metadata": {**resource["metadata"], "namespace": place}}


def _change(given: Sequence[Json], namespace: str | None, act: Callable[[Store, Json], None],
            verb: tuple[str, str], skip: type[StoreError] | None = None) -> None:
    """Do something to each resource and say how many it was done to; raises Failure with what failed."""
    if not given:
        click.echo("No resources specified")
        return
    store, errors, done, skipped = the_store(makes_it=True), [], 0, 0
    for resource in given:
        try:
            act(store, _placed(kinds.of(resource), resource, namespace))
            done += 1
        except (StoreError, IpamError) as error:
            if skip is not None and isinstance(error, skip):
                skipped += 1
                continue
            errors.append(str(error))
            if isinstance(error, GONE):
                break
    _report(verb, {resource["kind"] for resource in given}, done, len(given) - skipped, errors)


def _report(verb: tuple[str, str], found: Iterable[str], done: int, count: int, errors: Sequence[str]) -> None:
    """Tell the outcome in Calico's words, with the kind if there is only one; raises Failure if there are errors.

    done: how many of the `count` resources something was done to.
    """
    to_do, past = verb
    kind = f"'{next(iter(found))}' " if len(set(found)) == 1 else ""
    told = f"[{', '.join(errors)}]"
    if not errors:
        click.echo(f"Successfully {past} {done} {kind}resource(s)")
    elif done:
        click.echo(f"Partial success: {past} {done} out of {count} {kind}resources:")
        raise Failure(f"hit error: {told}")
    elif count == 1:
        raise Failure(f"failed to {to_do} {kind}resource: {told}")
    else:
        raise Failure(f"failed to {to_do} any {kind}resources: {told}")
