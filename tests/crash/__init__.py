"""Crashes: killed at each system call, power cut, disk full, locks lost or held, clocks set back."""
