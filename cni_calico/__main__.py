"""`calico`: the main plugin's executable."""

from __future__ import annotations

import sys

from cni_calico import skel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cni_calico.result import Result


def _verbs() -> Mapping[str, Callable[[skel.Call], Result | None]]:
    from cni_calico import plugin

    return plugin.VERBS


CALICO = skel.Plugin("calico", "gives a pod its interface, addresses and routes", _verbs)


def main() -> int:
    """Run `calico` as this process; return its exit code."""
    return skel.main(CALICO)


if __name__ == "__main__":
    sys.exit(main())
