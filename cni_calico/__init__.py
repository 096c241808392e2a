"""The CNI plugin `calico`, exec'd by a container runtime once per pod and verb."""
