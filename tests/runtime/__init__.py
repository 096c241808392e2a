"""The installed plugin under real runtimes: cnitool, libcni, containerd, podman and the reference plugins."""
