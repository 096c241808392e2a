"""`calicoctl get, create, apply, replace, delete, patch, label, validate`: resources in Calico's YAML."""
