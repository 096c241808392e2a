"""Many hosts on one etcd: races, faults, and histories of what they saw."""
