"""Settings for all tests."""

import os

from hypothesis import settings

# Machines are slow and shared: how long an example takes says nothing. CI judges by the same examples each time;
# new ones are looked for by people, who can say whether what they find is the change's fault.
settings.register_profile("bumpwire", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("bumpwire")
