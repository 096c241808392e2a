"""Wiring alone: cni_calico/dataplane.py in a warm process, beside the kernel's own part (bench/floor.c)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter

from bench.ground import alternate
from bench.rows import Json, row
from bench.starter import Floor
from cni_calico import dataplane
from cni_calico.args import Attachment
from cni_calico.dataplane import Make, Wire
from cni_calico.netlink import Socket
from cni_calico.world import World
from ipam.cidr import parse_address, parse_network

BAR = 3.0
ADDRESS = "10.97.0.1"
Times = tuple[float, float]  # of connecting and disconnecting, ms
Series = tuple[list[Times], Callable[[], Times]]


def _wire(path: str) -> Times:
    """Wire and unwire a namespace as the agent does; return what either took."""
    attachment = Attachment("k8s-pod-network", "0123456789abcdef" * 4, "eth0")
    wire = Wire(attachment, (parse_address(ADDRESS),), (parse_network("0.0.0.0/0"),))
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # comes with the request
    began = perf_counter()
    with dataplane.open_pod(fd) as pod, Socket() as host:
        dataplane.connect(wire, Make(dataplane.random_mac(), 0, 1, forwarding=False), fd, host, pod)
    between = perf_counter()
    with Socket() as host:
        dataplane.disconnect(attachment, host, World())
    ended = perf_counter()
    os.close(fd)
    return (between - began) * 1000, (ended - between) * 1000


def measure(scratch: Path, pods: Sequence[str], runs: int) -> list[Json]:
    """Return rows of both, which are measured in turn."""
    ours: list[Times] = []
    floor: list[Times] = []
    with closing(Floor(scratch, pods)) as kernel:
        sides: tuple[Series, ...] = ((ours, partial(_wire, pods[0])), (floor, kernel.wire))
        for number in range(-1, runs):  # the first is not counted
            for times, wire in alternate(sides, number):
                times.append(wire())
    found = []
    for index, what in enumerate(("connect", "disconnect")):
        values, base = ([times[index] for times in series[1:]] for series in (ours, floor))
        found += [row(f"{what}, raw netlink in C", base), row(f"{what}, dataplane.py", values, base, BAR)]
    return found
