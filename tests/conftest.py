"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says something of the machine, which others use too.
settings.register_profile("baton", deadline=None)
settings.load_profile("baton")
