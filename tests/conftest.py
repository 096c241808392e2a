"""What all tests share: how hypothesis judges them. Not by time: machines are noisy, and no test asserts times.

HYPOTHESIS_PROFILE=nightly makes the allocator's machine do a million steps (docs/testing.md).
"""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", settings.get_profile("untimed"), print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "untimed"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how far the allocator's machine went, if it ran."""
    kit = sys.modules.get("unit.allocator_kit")
    if kit and kit.STEPS:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(kit.STEPS.items()))
        terminalreporter.write_line(f"allocator machine: {counts}")
