"""`calicoctl ipam`: one module per command, and what they draw."""
