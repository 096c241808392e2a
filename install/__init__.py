"""Putting the plugin on a host and taking it off: the command `install-cni` (docs/install-cni.md)."""
