"""The verbs of `calico`, each a walk from left to right: addresses, wire, record, and back."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial

from cni_calico import addresses, dataplane, endpoint, facts, node
from cni_calico.args import Attachment
from cni_calico.attached import attached, collecting
from cni_calico.config import GATEWAY, OUR_IPAM
from cni_calico.dataplane import Make, Wire
from cni_calico.errors import DRIFT, INVALID_CONFIG, INVALID_NETNS, NOT_AVAILABLE, CniError, as_cni_error
from cni_calico.netlink import Socket
from cni_calico.reclaim import once_a_boot, recovering
from cni_calico.result import Interface, Ip, Result, Route
from datastore.cluster import require_ready
from datastore.frozen import replace
from datastore.settings import FILE
from datastore.undo import Undo, all_of, fail
from ipam.audit.living import BOOT, identity
from ipam.cidr import BITS, Cidr, parse_address, parse_network
from ipam.errors import BadRequest
from ipam.find import holdings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import ModuleType

    from cni_calico.dataplane import Wired
    from cni_calico.skel import Call
    from datastore.api import Corrupt, Store
    from ipam.audit.living import Living
    from ipam.cidr import Address

LEAST_IPV6_MTU = 1280  # RFC 8200 section 5


def add(call: Call) -> Result:
    """Give the pod its interface. What fails is undone: kernel and allocations are as before. Raises CniError etc."""
    name, store = node.name(call.conf), addresses.store_of(call)
    with ExitStack() as resources, Undo() as undo:
        held = resources.enter_context(attached(call, store))
        fd = resources.enter_context(call.world.open_netns(call.netns))
        pod = resources.enter_context(dataplane.open_pod(fd))
        host = resources.enter_context(Socket())
        if held.is_cut_off:
            dataplane.disconnect(call.attachment, host, call.world)
        dataplane.refuse_existing(pod, call.attachment.ifname)
        held.begin()
        call.world.lap("wiring")
        given = _assign(call, store, held.interrupted, undo)
        call.world.lap("ipam")
        wire = _wire(call, given)
        wired = dataplane.connect(wire, _make(call, wire), fd, host, pod)
        undo.push(dataplane.disconnect, call.attachment, host, call.world)
        call.world.lap("wiring")
        call.log.debug("wired", host=call.attachment.host_ifname, mac=wired.pod_mac, mtu=wired.mtu)
        undo.push(lambda: endpoint.forget(store, _find(call, store, call.attachment)))
        is_remote = call.conf.datastore.kind != FILE
        call.world.give(store, lambda at: endpoint.save(at, name, call.args, wire, wired, is_remote))
        call.world.lap("record")
        result = _result(call, given, wire, wired)
        call.answer(result)
        held.done()
    return result


def delete(call: Call) -> None:
    """Take away what the attachment has; whatever is gone already is no error (rules D1-D9)."""
    store = addresses.store_of(call)
    with attached(call, store) as held, Socket() as host:
        held.begin()
        _tear_down(call, store, call.attachment, (), host)


def check(call: Call) -> None:
    """Compare kernel and records with prevResult; raises CniError 105 for the first drift."""
    previous = call.conf.previous
    if previous is None:
        raise CniError(INVALID_CONFIG, "CHECK needs prevResult, which the configuration does not have; "
                                       "the attachment may never have been added")
    wire = _wire_of(call, previous)
    held = [str(address) for address in wire.addresses]
    store = addresses.store_of(call)
    recorded = _find(call, store, call.attachment)
    if recorded is None or not set(held) <= set(recorded.endpoint.addresses):
        raise CniError(DRIFT, f"the record of container {call.attachment.container_id} interface "
                              f"{call.attachment.ifname} is gone or has other addresses; delete and add the attachment")
    if call.conf.ipam.type == OUR_IPAM:
        addresses.require(store, call.attachment, held)
    else:
        _delegate().check(call)
    call.world.lap("ipam")
    with call.world.open_netns(call.netns) as fd, dataplane.open_pod(fd) as pod, Socket() as host:
        dataplane.verify(wire, host, pod)
    call.world.lap("wiring")


def gc(call: Call) -> None:
    """Remove what belongs to no valid attachment of this network; other networks are left alone (rules G1-G8).

    Where the runtime sends no list at all, only attachments whose pod is provably gone are removed (ipam/audit).
    """
    store = addresses.store_of(call)
    require_ready(store)
    damaged: list[Corrupt] = []
    living = facts.everything(node.name(call.conf))
    known = _known(call, store, living, damaged.append)
    valid = call.conf.valid_attachments or ()
    steps = [partial(_collect, call, store, living, item, known[item])
             for item in sorted(known, key=str) if (item.container_id, item.ifname) not in valid]
    if call.conf.ipam.type != OUR_IPAM:
        steps.append(partial(_delegate().collect, call))
    all_of(*steps, partial(addresses.tidy_up, call, store), store.tidy, *(partial(fail, error) for error in damaged))


def status(call: Call) -> None:
    """Return when an ADD could be served; raises CniError 50 saying why not. Takes no lock, writes nothing."""
    try:
        if call.conf.ipam.type == OUR_IPAM:
            addresses.require_room(call, addresses.store_of(call))
        else:
            node.name(call.conf)
            addresses.store_of(call).check_writable()
            _delegate().status(call)
    except Exception as error:
        known = as_cni_error(error)
        raise CniError(NOT_AVAILABLE, f"not ready for ADD: {known.msg}", known.details) from error


VERBS = recovering({"ADD": add, "DEL": delete, "CHECK": check, "GC": gc, "STATUS": status})


def _assign(call: Call, store: Store, interrupted: bool, undo: Undo) -> Result:
    """Return the addresses to wire and the routes asked for, pushing their release for the case of failure.

    The pod has no such interface, so what the attachment still holds is left from an ADD that was killed (rule A11).
    A foreign plugin is run with DEL for that only when a verb of this attachment is known to have been interrupted.
    """
    if call.conf.ipam.type != OUR_IPAM:
        if interrupted:
            _delegate().delete(call)
        undo.push(_delegate().delete, call)
        given: Result = _delegate().add(call)
        return given
    once_a_boot(call, store)
    call.world.free(store, partial(addresses.take, attachment=call.attachment))
    undo.push(addresses.take, store, call.attachment)
    assigned = addresses.give(call, store, facts.traces(call.attachment))
    return Result(ips=tuple(Ip(str(item.address)) for item in assigned), routes=call.conf.ipam.routes)


def _wire(call: Call, given: Result) -> Wire:
    """Return the wire for the addresses given, with the routes the IPAM names instead of the default one."""
    wanted = tuple(parse_address(ip.bare) for ip in given.ips)
    families = {address.family for address in wanted}
    routes = [parse_network(route.dst) for route in given.routes]
    if not routes or call.conf.include_default_routes:
        routes += [Cidr(family, 0, 0) for family in sorted(families)]
    return Wire(call.attachment, wanted, tuple(dict.fromkeys(route for route in routes if route.family in families)))


def _make(call: Call, wire: Wire) -> Make:
    mtu = node.mtu(call.conf)
    if 6 in wire.families and 0 < mtu < LEAST_IPV6_MTU:
        raise CniError(INVALID_CONFIG, f'MTU {mtu} is too small for IPv6, which needs {LEAST_IPV6_MTU}; raise "mtu" or '
                                       "turn ipam.assign_ipv6 off")
    return Make(
        pod_mac=call.conf.mac or call.args.mac or dataplane.random_mac(),
        mtu=mtu,
        queues=call.conf.num_queues,
        forwarding=call.conf.allow_ip_forwarding,
    )


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
        routes=tuple(parse_network(route.dst) for route in previous.routes if route.gw in gateways),
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


def _tear_down(call: Call, store: Store, attachment: Attachment, held: Collection[Address], host: Socket) -> None:
    """Unwire first, so that no address is free while a pod still has it.

    Then addresses and record, each whatever becomes of the other (rule D4). `held` are addresses found in blocks. What
    our allocator gave is given back also when the configuration names another by now (R12).
    """
    existed = dataplane.disconnect(attachment, host, call.world)
    call.world.lap("wiring")
    call.log.debug("unwired", host=attachment.host_ifname, existed=existed)
    found: list[endpoint.Found] = []
    all_of(
        lambda: found.extend(filter(None, [_find(call, store, attachment)])),
        *((partial(_delegate().delete, call),) if call.command == "DEL" and call.conf.ipam.type != OUR_IPAM else ()),
        lambda: all_of(*(partial(_forget_source_rules, call, each) for each in found)),
        lambda: call.world.free(store, partial(_forget, call, attachment, held, found)),
    )
    call.world.lap("ipam")


def _forget(
    call: Call, attachment: Attachment, held: Collection[Address], found: list[endpoint.Found], store: Store
) -> None:
    """Give the addresses back and remove the record."""
    hints = {*held, *(item for each in found for item in _addresses(each))}
    all_of(
        lambda: call.log.debug("released", addresses=",".join(addresses.take(store, attachment, hints))),
        *(partial(endpoint.forget, store, each) for each in found),
    )


def _find(call: Call, store: Store, attachment: Attachment) -> endpoint.Found | None:
    """Return the attachment's record: at its usual place, where its allocations say, or wherever it is on this node.

    A datastore of many nodes has too many records to look at all of them.
    """
    with suppress(CniError):  # a DEL needs no node name
        found = endpoint.find_at(store, attachment, endpoint.usual_key(node.name(call.conf), call.args, attachment))
        if found:
            return found
    if call.conf.datastore.kind == FILE:
        return endpoint.find(store, attachment)
    told = (item.attribute.owner for item in holdings(store, attachment.owner({})))
    return endpoint.find_at(store, attachment, *(endpoint.told_key(attachment, owner) for owner in told))


def _addresses(found: endpoint.Found) -> tuple[Address, ...]:
    """Return the addresses in a record; none when it has anything else for one."""
    try:
        return tuple(map(parse_address, found.endpoint.addresses))
    except BadRequest:
        return ()


def _forget_source_rules(call: Call, found: endpoint.Found) -> None:
    """Remove a second interface's rules from a pod that lives on; a pod that is gone needs nothing (D2, D6)."""
    if not found.endpoint.source_table or not call.netns or call.world.is_own_netns(call.netns):
        return
    try:
        with call.world.open_netns(call.netns) as fd:
            dataplane.forget_source_rules(_addresses(found), found.endpoint.source_table, fd)
    except CniError as error:
        if error.code != INVALID_NETNS:
            raise


def _known(
    call: Call, store: Store, living: Living, damaged: Callable[[Corrupt], object]
) -> dict[Attachment, addresses.Known]:
    """Return every attachment of the network that a record, an address or a link tells of, with what is told of it.

    A datastore of many nodes has too many records to look at all of them: there, an address or a link tells. What a
    record of this node does not say of itself is what is true of everything that `calico` wires here and now.
    """
    told = {Attachment(*identity(wire.owner.attributes)): living.node for wire in living.wires}
    if call.conf.datastore.kind == FILE:
        told.update(endpoint.attachments(store, damaged))
    found = addresses.attachments(call, store, damaged)
    for attachment, its_node in told.items():
        if attachment.network == call.conf.name:
            here = {BOOT: living.boot, **facts.traces(attachment)} if its_node == living.node else {}
            here |= attachment.owner({"node": its_node}).attributes
            known = found.get(attachment, addresses.Known((), ({},)))
            found[attachment] = replace(known, told=tuple({**here, **more} for more in known.told))
    return found


def _collect(call: Call, store: Store, living: Living, attachment: Attachment, known: addresses.Known) -> None:
    """Remove one attachment, unless a verb is working on it just now, or its pod may be alive."""
    with collecting(call, store, attachment) as is_free, Socket() as host:
        why = is_free and addresses.why_gone(call, facts.looked_up(living, host), attachment, known)
        if why:
            _tear_down(replace(call, netns=""), store, attachment, known.addresses, host)
            call.log.info("GC removed", attachment=attachment.alias, why=why)


def _delegate() -> ModuleType:
    """Return the module for foreign IPAM plugins, whose imports (subprocess) are not for every pod."""
    from cni_calico import delegate

    return delegate
