"""What operators edit: the network configuration that `install-cni` renders and puts on a host."""
