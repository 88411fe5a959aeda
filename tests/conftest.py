"""Settings that all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Time is no verdict on a busy machine, so no profile has a deadline. `quick` draws the same examples on every run;
# `laws` (pytest --hypothesis-profile=laws) looks for new ones, for as long as that takes.
settings.register_profile("quick", max_examples=50, derandomize=True, deadline=None)
settings.register_profile(
    "laws",
    max_examples=2000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("quick")
