"""`calicoctl`: the command for people. One module per command group; docs/calicoctl.md is its page."""
