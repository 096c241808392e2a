"""Addresses: pools are cut into blocks, a node claims blocks, pods get addresses from them. No CNI, no netlink here."""
