"""What holds for all tests: no silent broadcasting, and examples that are the same every time."""

import os
import tempfile

import hypothesis
import jax

# Experiments that tests run in processes of their own keep compiled code here, not at the user's.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="mine_jax-tests-")

jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=25, database=None
)
hypothesis.settings.load_profile("repeatable")
