"""The verbs of `calico`, each a walk from left to right: addresses, wire, record, and back."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

from cni_calico import addresses, dataplane, endpoint, netns
from cni_calico.args import parse_mac
from cni_calico.config import OUR_IPAM, mtu, node_name
from cni_calico.dataplane import GATEWAY, Wire
from cni_calico.errors import DRIFT, INVALID_CONFIG, NOT_AVAILABLE, CniError, as_cni_error
from cni_calico.netlink import Socket
from cni_calico.result import Interface, Ip, Result, Route
from datastore.api import Busy
from ipam.cidr import BITS, Cidr, block_at, parse_address
from ipam.errors import BadRequest
from ipam.release import take_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from cni_calico.args import Attachment
    from cni_calico.dataplane import Wired
    from cni_calico.skel import Call
    from datastore.api import Store

HOLD_SECONDS = 60.0  # how long one verb waits for another of the same attachment
DEFAULT_ROUTE = {4: Cidr(4, 0, 0), 6: Cidr(6, 0, 0)}


def add(call: Call) -> Result:
    """Give the pod its interface. Whatever fails, kernel and datastore are as before. Raises CniError, StoreError …"""
    node, store = node_name(call.conf), addresses.store_of(call)
    with _alone(store, call.attachment), ExitStack() as undo:
        fd = undo.enter_context(netns.opened(call.netns))
        pod = undo.enter_context(dataplane.open_pod(fd))
        host = undo.enter_context(Socket())
        dataplane.refuse_existing(pod, call.attachment.ifname)
        with ExitStack() as failed:
            given = _assign(call, store, failed)
            wire = _wire(call, given)
            wired = dataplane.connect(wire, fd, host, pod)
            failed.callback(dataplane.disconnect, call.attachment, host)
            call.log.debug("wired", host=call.attachment.host_ifname, mac=wired.pod_mac, mtu=wired.mtu)
            failed.callback(endpoint.forget, store, call.attachment)
            endpoint.save(store, call.attachment, node, call.args, wire, wired)
            failed.pop_all()
    return _result(call, given, wire, wired)


def delete(call: Call) -> None:
    """Take away what the attachment has; whatever is gone already is no error (rules D1-D9)."""
    store = addresses.store_of(call)
    with _alone(store, call.attachment):
        _tear_down(call, store, call.attachment, call.netns)


def check(call: Call) -> None:
    """Compare kernel and records with prevResult; raises CniError 105 for the first drift."""
    previous = call.conf.previous
    if previous is None:
        raise CniError(INVALID_CONFIG, "CHECK needs prevResult, which the configuration does not have; "
                                       "the attachment may never have been added")
    wire = _wire_of(call, previous)
    held = [str(address) for address in wire.addresses]
    store = addresses.store_of(call)
    recorded = endpoint.find(store, call.attachment)
    if recorded is None or not set(held) <= set(recorded.addresses):
        raise CniError(DRIFT, f"the record of container {call.attachment.container_id} interface "
                              f"{call.attachment.ifname} is gone or has other addresses; delete and add the attachment")
    if call.conf.ipam.type == OUR_IPAM:
        addresses.require(store, call.attachment, held)
    else:
        _delegate().check(call)
    with netns.opened(call.netns) as fd, dataplane.open_pod(fd) as pod, Socket() as host:
        dataplane.verify(wire, host, pod)


def gc(call: Call) -> None:
    """Remove what belongs to no valid attachment of this network; other networks are left alone (rules G1-G8).

    Where the runtime sends no list at all, only attachments without a veth are removed: their pod is provably gone.
    The file datastore holds this machine's attachments only, so none needs to be told apart by node.
    """
    store, valid, errors = addresses.store_of(call), call.conf.valid_attachments, []
    for attachment in sorted(_known(call, store), key=str):
        if valid is not None and (attachment.container_id, attachment.ifname) in valid:
            continue
        try:
            _collect(call, store, attachment, only_without_link=valid is None)
        except Exception as error:  # one attachment's trouble must not keep the others
            errors.append(as_cni_error(error))
            call.log.error("GC could not remove an attachment", attachment=attachment.alias, msg=errors[-1].msg)
    if call.conf.ipam.type != OUR_IPAM:
        _delegate().collect(call)
    if errors:
        raise CniError(errors[0].code, f"GC left {len(errors)} attachments behind; the first: {errors[0].msg}",
                       errors[0].details)


def status(call: Call) -> None:
    """Return when an ADD could be served; raises CniError 50 saying why not. Takes no lock, writes nothing."""
    try:
        node_name(call.conf)
        store = addresses.store_of(call)
        store.check_writable()
        if call.conf.ipam.type == OUR_IPAM:
            addresses.require_room(call, store)
        else:
            _delegate().status(call)
    except Exception as error:
        known = as_cni_error(error)
        raise CniError(NOT_AVAILABLE, f"not ready for ADD: {known.msg}", known.details) from error


VERBS = {"ADD": add, "DEL": delete, "CHECK": check, "GC": gc, "STATUS": status}


@contextmanager
def _alone(store: Store, attachment: Attachment, seconds: float = HOLD_SECONDS) -> Iterator[None]:
    """Run the body while no other verb works on the same attachment. A killed verb holds nothing. Raises Busy."""
    with store.hold(attachment.host_ifname, seconds):
        yield


def _assign(call: Call, store: Store, failed: ExitStack) -> Result:
    """Return the addresses to wire and the routes asked for, pushing their release for the case of failure.

    The pod has no such interface, so what the attachment still holds is left from an ADD that was killed (rule A11).
    """
    if call.conf.ipam.type != OUR_IPAM:
        given: Result = _delegate().add(call)
        failed.callback(_delegate().undo, call)
        return given
    addresses.take(store, call.attachment)
    assigned = addresses.give(call, store)
    for item in assigned:
        failed.callback(take_back, store, item)
    routes = tuple(Route(str(route.get("dst"))) for route in call.conf.ipam.routes)
    return Result(ips=tuple(Ip(str(item.address)) for item in assigned), routes=routes)


def _wire(call: Call, given: Result) -> Wire:
    mac = call.conf.mac or call.args.mac
    addresses_given = tuple(parse_address(ip.bare) for ip in given.ips)
    return Wire(
        attachment=call.attachment,
        addresses=addresses_given,
        routes=_routes(call, given, {address.family for address in addresses_given}),
        pod_mac=parse_mac(mac, "MAC") if mac else dataplane.random_mac(),
        mtu=mtu(call.conf),
        queues=call.conf.num_queues,
        forwarding=call.conf.allow_ip_forwarding,
    )


def _routes(call: Call, given: Result, families: set[int]) -> tuple[Cidr, ...]:
    """Return the pod's destinations: those the IPAM names, in their place or besides them the default route."""
    named = [_destination(route.dst) for route in given.routes]
    if not named or call.conf.include_default_routes:
        named += [DEFAULT_ROUTE[family] for family in sorted(families)]
    return tuple(dict.fromkeys(route for route in named if route.family in families))


def _destination(text: str) -> Cidr:
    start, _, prefix = text.partition("/")
    address = parse_address(start)
    if not (prefix.isascii() and prefix.isdigit() and int(prefix) <= BITS[address.family]):
        raise BadRequest(f'route destination "{text}" is not a CIDR')
    return block_at(address, int(prefix))


def _wire_of(call: Call, previous: Result) -> Wire:
    """Return the wire that prevResult tells of; raises CniError when it does not know this interface."""
    indexes = [
        index
        for index, item in enumerate(previous.interfaces)
        if item.name == call.attachment.ifname and item.sandbox == call.netns
    ]
    ours = [ip for ip in previous.ips if ip.interface in indexes]
    if not ours:
        raise CniError(DRIFT, f"prevResult has no address on interface {call.attachment.ifname} of {call.netns}")
    gateways = {str(gateway) for gateway in GATEWAY.values()}
    return Wire(
        attachment=call.attachment,
        addresses=tuple(parse_address(ip.bare) for ip in ours),
        routes=tuple(_destination(route.dst) for route in previous.routes if route.gw in gateways),
        pod_mac=b"",
        mtu=0,
        queues=1,
        forwarding=call.conf.allow_ip_forwarding,
    )


def _result(call: Call, given: Result, wire: Wire, wired: Wired) -> Result:
    """Return what was made, behind what a plugin earlier in the list had made (rule A4)."""
    before = call.conf.previous or Result()
    extra = {"mtu": wired.mtu}
    index = len(before.interfaces) + 1
    return Result(
        interfaces=(
            *before.interfaces,
            Interface(call.attachment.host_ifname, wired.host_mac, "", extra),
            Interface(call.attachment.ifname, wired.pod_mac, call.netns, extra),
        ),
        ips=(*before.ips, *(Ip(f"{address}/{BITS[address.family]}", "", index) for address in wire.addresses)),
        routes=(*before.routes, *(Route(str(route), str(GATEWAY[route.family])) for route in wire.routes)),
        dns=call.conf.dns or given.dns or before.dns,
    )


def _tear_down(call: Call, store: Store, attachment: Attachment, netns_path: str) -> None:
    """Wire first, so that no address is free while a pod still has it; then addresses; then the record.

    An address whose release fails does not keep the record's removal, and is told of at the end (rule D4).
    """
    _unwire(call, store, attachment, netns_path)
    with ExitStack() as rest:
        rest.callback(endpoint.forget, store, attachment)
        if call.conf.ipam.type == OUR_IPAM:
            call.log.debug("released", addresses=",".join(addresses.take(store, attachment)))
        elif call.command == "DEL":
            _delegate().delete(call)


def _unwire(call: Call, store: Store, attachment: Attachment, netns_path: str) -> None:
    recorded = endpoint.find(store, attachment)
    with Socket() as host:
        existed = dataplane.disconnect(attachment, host)
    call.log.debug("unwired", host=attachment.host_ifname, existed=existed)
    if recorded and recorded.source_table and netns_path:
        _forget_source_rules(recorded, netns_path)


def _forget_source_rules(recorded: endpoint.Endpoint, netns_path: str) -> None:
    """Remove a second interface's rules from a pod that lives on; a pod that is gone needs nothing (D2, D6)."""
    try:
        with netns.opened(netns_path) as fd:
            if not netns.is_own(fd):
                dataplane.forget_source_rules(tuple(map(parse_address, recorded.addresses)), recorded.source_table, fd)
    except CniError:
        return


def _known(call: Call, store: Store) -> set[Attachment]:
    """Return every attachment of the network that any of record, address or link tells of."""
    from cni_calico.args import attachment_of_alias
    from cni_calico.netlink import aliases

    found = {item.attachment for item in endpoint.all_endpoints(store)}
    found |= {attachment for _, alias in aliases() if (attachment := attachment_of_alias(alias))}
    found |= addresses.attachments(store, call.conf.name)
    return {attachment for attachment in found if attachment.network == call.conf.name}


def _collect(call: Call, store: Store, attachment: Attachment, only_without_link: bool) -> None:
    """Remove one attachment, unless a verb is working on it just now."""
    try:
        with _alone(store, attachment, seconds=0), Socket() as host:
            if only_without_link and host.link(attachment.host_ifname):
                return
            _tear_down(call, store, attachment, "")
            call.log.info("GC removed", attachment=attachment.alias)
    except Busy:
        call.log.info("GC left an attachment that is being worked on", attachment=attachment.alias)


def _delegate() -> ModuleType:
    """Return the module for foreign IPAM plugins, whose imports (subprocess) are not for every pod."""
    from cni_calico import delegate

    return delegate
