"""`calicoctl node`: one module per command; and the name of the node that a command runs on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cni_calico.config import NODENAME_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping


def this_node(env: Mapping[str, str], path: str = NODENAME_FILE) -> str:
    """Return it as the plugin finds it: from the environment, else the file that calico-node writes, else the host."""
    named = env.get("KUBERNETES_NODE_NAME") or env.get("NODENAME")
    if named:
        return named
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            named = file.read().strip()
    except OSError:
        pass  # not every node has the file
    return named or os.uname().nodename.strip().lower()
