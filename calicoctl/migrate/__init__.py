"""`calicoctl datastore migrate`: all records of a datastore to a text, and from it into another one."""
