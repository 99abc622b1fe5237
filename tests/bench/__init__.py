"""The benchmark; `__main__.py` says how to run it."""
