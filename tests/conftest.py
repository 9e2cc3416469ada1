"""What holds for all tests: no silent broadcasting, and examples that are the same every time."""

import contextlib
import os
import tempfile

import hypothesis
import jax
import pytest

from mine_jax import estimator

# Experiments that tests run in processes of their own keep compiled code here, not at the user's.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="mine_jax-tests-")

jax.config.update("jax_numpy_rank_promotion", "raise")
# So that what another test has compiled is not compiled again.
estimator._MOST_COMPILED = 200
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=25, database=None
)
hypothesis.settings.load_profile("repeatable")


_compiled = []


def _listen(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled.append(duration)


jax.monitoring.register_event_duration_secs_listener(_listen)


@pytest.fixture
def compilations():
    """A context whose list holds the seconds of each compilation in it, once it is left."""

    @contextlib.contextmanager
    def context():
        before, seen = len(_compiled), []
        yield seen
        seen += _compiled[before:]

    return context
