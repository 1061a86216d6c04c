"""Settings for all tests."""

from hypothesis import settings

# Machines are slow and shared: how long an example takes says nothing.
settings.register_profile("bumpwire", deadline=None)
settings.load_profile("bumpwire")
