"""The verbs of ``bumpwire``, one module each: a function ``command`` whose signature and docstring are the manual.

A module imports what it needs inside ``command``, so that no verb pays for another's imports.
"""
