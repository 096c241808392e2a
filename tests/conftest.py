"""What all tests share: how hypothesis judges them. Not by time: machines are noisy, and no test asserts times."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
