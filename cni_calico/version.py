"""The release number: one place, read by packaging, `calico -v` and `calicoctl version`."""

VERSION = "0.1.0"
