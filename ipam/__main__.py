"""`calico-ipam`: the allocator as an IPAM plugin for any main plugin (ptp, bridge, macvlan, …), on the same skel."""

from __future__ import annotations

import sys

from cni_calico import skel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cni_calico.result import Result


def _verbs() -> Mapping[str, Callable[[skel.Call], Result | None]]:
    from cni_calico import ipam_verbs

    return ipam_verbs.VERBS


CALICO_IPAM = skel.Plugin("calico-ipam", "hands out addresses from this node's blocks", _verbs)


def main() -> int:
    """Run `calico-ipam` as this process; return its exit code."""
    return skel.main(CALICO_IPAM)


if __name__ == "__main__":
    sys.exit(main())
