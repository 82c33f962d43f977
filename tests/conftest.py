"""Puts `reference` on the path of every test below, and makes hypothesis draw the same examples in each run."""

import hypothesis

hypothesis.settings.register_profile("mru", derandomize=True, deadline=None, max_examples=30)
hypothesis.settings.load_profile("mru")
