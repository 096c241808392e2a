"""`calico-ipam`: the allocator as an IPAM plugin for any main plugin (ptp, bridge, macvlan, …), on the same skel.

With `-upgrade` it is a command for people instead, which moves host-local's addresses here (ipam/upgrade.py).
"""

from __future__ import annotations

import os
import sys

from cni_calico import skel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Mapping

    from cni_calico.result import Result
    from datastore.api import Store
    from datastore.hostlocal import Folder
    from ipam.handle import Owner
    from ipam.upgrade import Job, Summary

EPILOG = """\
examples:
  calico-ipam -upgrade
  calico-ipam -upgrade --network podnet --data-dir /srv/cni/networks -o json

environment:
  KUBERNETES_NODE_NAME, NODENAME   the node's name; else /var/lib/calico/nodename, else the host's name
  DATASTORE_TYPE                   kind of datastore  (default: file)
  CALICO_DATASTORE_DIR             its directory  (default: /var/lib/calico/datastore)

exit codes:
  0  nothing of host-local's is left
  1  something is left: one line each on stderr says what, why, and what to do
  2  wrong command line
"""
MANY = 50  # files worth a progress line


def _verbs() -> Mapping[str, Callable[[skel.Call], Result | None]]:
    from cni_calico import ipam_verbs

    return ipam_verbs.VERBS


ABOUT = "hands out addresses from this node's blocks; with -upgrade, takes over those of host-local"
CALICO_IPAM = skel.Plugin("calico-ipam", ABOUT, _verbs)


def main() -> int:
    """Run `calico-ipam` as this process; return its exit code."""
    if sys.argv[1:2] in (["-upgrade"], ["--upgrade"]):
        return _upgrade(sys.argv[2:])
    return skel.main(CALICO_IPAM)


def _upgrade(arguments: list[str]) -> int:
    """Carry out `-upgrade`; return its exit code."""
    from cni_calico.errors import as_cni_error

    options = _options(arguments)
    try:
        return _carry_out(options)
    except Exception as error:
        known = as_cni_error(error)
        _complain("error", f"{known.msg} ({known.details})" if known.details else known.msg)
        return 1


def _options(arguments: list[str]) -> Namespace:
    import argparse

    from datastore.hostlocal import DATA_DIR

    parser = argparse.ArgumentParser("calico-ipam -upgrade", epilog=EPILOG, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description="Move a network's addresses on this node from host-local to "
                                                 "calico-ipam. Doing it again is safe at any time.")
    parser.add_argument("--network", default="k8s-pod-network", metavar="NAME",
                        help="name of the network, as in its configuration  (default: %(default)s)")
    parser.add_argument("--data-dir", default=DATA_DIR, metavar="DIR",
                        help="host-local's dataDir  (default: %(default)s)")
    parser.add_argument("--conf-dir", default=os.environ.get("CNI_NET_DIR") or "/etc/cni/net.d", metavar="DIR",
                        help="network configurations, none of which may still use host-local for it  "
                             "(default: %(default)s)")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="form of the summary")
    return parser.parse_args(arguments)


def _carry_out(options: Namespace) -> int:
    """Upgrade, and print the summary; return the exit code. Raises CniError, StoreError, OSError."""
    from cni_calico import node
    from cni_calico.args import check_network
    from cni_calico.config import parse
    from datastore import open_store
    from datastore.hostlocal import Folder
    from ipam.upgrade import Job, upgrade

    network = check_network(options.network)
    conf = parse(_settings(os.environ), network, "1.1.0", env=os.environ)
    name, folder = node.name(conf), Folder(os.path.join(options.data_dir, network))
    store = open_store(conf.datastore)
    job = Job(name, network, lambda container_id, ifname: _owner(name, network, container_id, ifname))
    if _only_reserved(options, store, folder, job):
        return 1
    return _tell(options, name, folder, upgrade(store, folder, job, _progress))


def _only_reserved(options: Namespace, store: Store, folder: Folder, job: Job) -> bool:
    """Only reserve the addresses while host-local may still be run for the network, which would give them out again."""
    from datastore.hostlocal import configured
    from ipam.upgrade import gate

    user = configured(options.conf_dir, job.network)
    if user:
        count = gate(store, folder, job)
        _complain("error", f"{user} still has host-local serve network {job.network}, so its {count} addresses were "
                           "only reserved; put calico-ipam's configuration in its place, then run this again")
    return bool(user)


def _settings(env: Mapping[str, str]) -> dict[str, object]:
    """Return what the environment says in the keys of a network configuration, so that the plugin's rules hold."""
    return {
        "ipam": {"type": "calico-ipam"},
        "nodename": env.get("KUBERNETES_NODE_NAME") or env.get("NODENAME"),
        "datastore_dir": env.get("CALICO_DATASTORE_DIR"),
    }


def _owner(node_name: str, network: str, container_id: str, ifname: str) -> Owner:
    """Return the owner a runtime's DEL will name; without an interface where it is not known. Raises BadRequest."""
    import time

    from cni_calico.args import check_container_id, check_ifname
    from cni_calico.errors import CniError
    from cni_calico.node import boot_id
    from ipam.errors import BadRequest
    from ipam.handle import Owner

    try:
        check_container_id(container_id, network)
        if ifname:
            check_ifname(ifname, strict=False)
    except CniError as error:
        raise BadRequest(f"it says container {container_id[:99]!r}, interface {ifname[:99]!r}") from error
    known = {"node": node_name, "timestamp": time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime()),
             "boot": boot_id(), "network": network, "container": container_id}
    return Owner(f"{network}.{container_id}", known | ({"interface": ifname} if ifname else {}))


def _progress(count: int, total: int) -> None:
    """Show how far it is on one line of a terminal, when there are many files."""
    if total >= MANY and sys.stderr.isatty():
        share = 100 * count // total
        if count == total or share != 100 * (count - 1) // total:
            sys.stderr.write(f"\r{'#' * (share // 5):.<20} {share:3}% of {total} files" + "\n" * (count == total))
            sys.stderr.flush()


def _tell(options: Namespace, node_name: str, folder: Folder, summary: Summary) -> int:
    """Print what is left on stderr and the summary on stdout; return the exit code."""
    from datastore.hostlocal import networks

    if summary.gone:
        there = ", ".join(networks(options.data_dir)) or "none"
        _complain("note", f"{folder.path} does not exist; networks there: {there}")
    for item in summary.left:
        _complain("left", f"{os.path.join(folder.path, item.file)}: {item.reason}; {item.action}")
    if options.output == "json":
        import json

        left = [{"file": item.file, "reason": item.reason, "action": item.action} for item in summary.left]
        text = json.dumps({"network": options.network, "node": node_name, "directory": folder.path,
                           "placed": summary.placed, "left": left}, indent=2)
    else:
        text = (f"network {options.network} on node {node_name}: {summary.placed} addresses moved from host-local, "
                f"{len(summary.left) or 'none'} left in {folder.path}")
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    return 1 if summary.left else 0


def _complain(kind: str, text: str) -> None:
    """Write one line on stderr, whatever is in the text."""
    from cni_calico.log import stderr

    safe = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    stderr(f"calico-ipam: {kind}: {safe}\n")


if __name__ == "__main__":
    sys.exit(main())
