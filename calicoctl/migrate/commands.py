"""`calicoctl datastore migrate lock | export | import | unlock` (calicoctl commands/datastore/migrate)."""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, TypeVar

import click

from calicoctl.command import CONTEXT, EXIT_CODES, echo_json, global_options, json_text, output_option, the_store
from calicoctl.migrate import transfer
from calicoctl.migrate.text import Reading, Writing
from calicoctl.progress import counted
from calicoctl.table import printable
from calicoctl.writing import STDOUT, require_place, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

    from calicoctl.migrate.text import Header
    from calicoctl.migrate.transfer import Imported
    from datastore.api import Json
    from datastore.cluster import Cluster

Function = TypeVar("Function", bound="Callable[..., Any]")

JSON, STDIN = "json", "-"
UNLOCK = "calicoctl datastore migrate unlock"


def epilog(examples: str, more: str) -> str:
    """Return the end of a command's help."""
    return f"\b\nExamples:\n{examples}\n\n\b\n{more}\n\n{EXIT_CODES}\n"


@click.command(context_settings=CONTEXT, epilog=epilog("""\
  calicoctl datastore migrate lock
  calicoctl -c ./old.cfg datastore migrate lock -o json""", """\
ClusterInformation default gets datastoreReady: false. From then on ADD and DEL answer "try again later" on every node;
runtimes do. Pods that run do not notice. What had begun before goes on to its end: give it some seconds."""))
@output_option
@global_options
def lock(output: str) -> None:
    """Close the datastore for changes, so that it can be exported."""
    _tell(transfer.lock(the_store()), "Datastore locked.", output)


@click.command(context_settings=CONTEXT, epilog=epilog("""\
  calicoctl datastore migrate unlock""", """\
One into which an import has not come to its end stays closed. After a migration unlock the new datastore only: as long
as the old one is locked, a node that still uses it gives out no address a second time."""))
@output_option
@global_options
def unlock(output: str) -> None:
    """Open the datastore for changes again."""
    _tell(transfer.unlock(the_store()), "Datastore unlocked.", output)


@click.command(context_settings=CONTEXT, epilog=epilog("""\
  calicoctl datastore migrate export -f calico.export
  calicoctl datastore migrate export > calico.export
  calicoctl datastore migrate export -f calico.export -o json""", """\
The datastore must be locked. The file has every record, a line each, and ends with a digest, so that one that was cut
off or changed is told. With -f it is readable by its owner only, and there whole or not at all. What was exported is
told on stdout, or, where the export itself goes there, on stderr."""))
@click.option("-f", "--filename", "path", metavar="FILE", default="-", help="Write to this file; - is stdout.  "
              "[default: -]")
@output_option
@global_options
def export(path: str, output: str) -> None:
    """Write everything that is in the datastore as text."""
    require_place(path)
    store = the_store()
    with transfer.closed(store) as cluster:
        writing = Writing(transfer.survey(store, cluster.guid, counted))
        write(path, writing.lines(transfer.records(store, writing.header, counted)))
    told = json_text({**_json(writing.header), "sha256": writing.sha256}, indent=2)
    click.echo(told if output == JSON else f"Exported {_text(writing.header)}", err=path in STDOUT)


@click.command("import", context_settings=CONTEXT, epilog=epilog("""\
  calicoctl -c ./new.cfg datastore migrate import -f calico.export
  DATASTORE_TYPE=etcdv3 ETCD_ENDPOINTS=http://10.0.0.1:2379 calicoctl datastore migrate import -f calico.export""", """\
The datastore must have nothing of its own but what it is made with: default pools, ClusterInformation and Felix's
defaults, which are replaced. In the end it is compared with the file, and stays locked until `unlock`. Should the
command be killed, run it again: it goes on from there."""))
@click.option("-f", "--filename", "path", metavar="FILE", required=True, help="What export has written; - is stdin.")
@output_option
@global_options
def import_(path: str, output: str) -> None:
    """Make an empty datastore equal to an export."""
    with _opened(path) as file:
        reading = Reading(file, "standard input" if path == STDIN else path)
        done = transfer.import_all(reading, the_store(makes_it=True), counted)
    if output == JSON:
        echo_json({**_json(reading.header), "sha256": reading.sha256, "written": done.written,
                   "alreadyThere": done.present, "removed": done.removed, "locked": True})
    else:
        click.echo(f"Imported {_text(reading.header)}\n{_done(done)}\n"
                   f"The datastore is equal to the export, and locked; to open it: {UNLOCK}")


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """Open a file that can be read several times; what comes from stdin is kept in a temporary one."""
    if path != STDIN:
        with open(path, "rb") as file:
            yield file
        return
    with TemporaryFile() as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
        yield kept


def _tell(cluster: Cluster, text: str, output: str) -> None:
    if output == JSON:
        echo_json({"clusterGUID": cluster.guid, "locked": cluster.locked})
    else:
        click.echo(text)


def _json(header: Header) -> Json:
    return {"clusterGUID": header.guid, "records": header.records, "counts": dict(header.counts)}


def _text(header: Header) -> str:
    counts = ", ".join(f"{count} {printable(sort)}" for sort, count in header.counts.items())
    return f"{header.records} records of cluster {printable(header.guid)}: {counts}."


def _done(done: Imported) -> str:
    return f"{done.written} were written, {done.present} were there already, {done.removed} others were removed."
