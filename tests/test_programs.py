"""Tests of calls from other people's programs: forks, traces, x64, NaN checks, many shapes."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax import compilation, independence_test, lower_bound
from mine_jax.mine import MineConfig

pytestmark = pytest.mark.usefixtures("compile_fast")

CONFIG = MineConfig(
    network="separable",
    hidden=8,
    depth=1,
    features=4,
    batch_size=32,
    check_every=10,
    max_steps=20,
    cross_fit=False,
)
rng = np.random.default_rng(0)
X = rng.normal(size=(100, 2))
Z = X[:, :1] + 0.5 * rng.normal(size=(100, 1))

FORKED = """
import os, sys
import jax, mine_jax
if sys.argv[1] == "used":
    jax.devices()
child = os.fork()
if child == 0:
    try:
        mine_jax.lower_bound([1.0], [1.0])
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize(
    ("before", "message"),
    [("used", "RuntimeError this process was forked"), ("imported", "ValueError")],
)
def test_lower_bound_in_a_forked_process_is_refused_where_it_would_wait_forever(before, message):
    command = [sys.executable, "-W", "ignore", "-c", FORKED, before]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(message), done.stdout


@pytest.mark.parametrize("function", [lower_bound, independence_test])
@pytest.mark.parametrize("transformed", [jax.jit, jax.vmap, jax.grad])
def test_calls_in_a_trace_are_refused(function, transformed):
    message = f"{function.__name__} was called inside jax.jit, vmap, grad"
    argument = jnp.ones(3) if transformed is jax.vmap else 1.0
    for inner in (lambda a: function(X * a, Z), lambda a: a + float(function(X, Z, config=CONFIG))):
        with pytest.raises(RuntimeError, match=message):
            transformed(inner)(argument)


def test_lower_bound_is_the_same_in_x64_mode_and_leaves_it():
    estimate = lower_bound(X, Z, config=CONFIG)
    warm = lower_bound(X, Z, config=CONFIG, init=estimate)
    with jax.enable_x64(True):
        assert lower_bound(jnp.asarray(X), jnp.asarray(Z), config=CONFIG).nats == estimate.nats
        assert lower_bound(X, Z, config=CONFIG, init=estimate).nats == warm.nats
        assert jnp.ones(1).dtype == np.float64


def test_lower_bound_of_encoders_that_lost_raises_nothing_under_debug_nans():
    config = MineConfig(**{**vars(CONFIG), "network": "auto", "max_steps": 600, "check_every": 100})
    with jax.debug_nans(True):
        estimate = lower_bound(np.exp(3 * X), Z, config=config)
    assert np.isfinite(estimate.nats)


def test_programs_are_forgotten_past_their_maximum(monkeypatch, compilations):
    alone = lower_bound(X, Z, config=CONFIG)
    monkeypatch.setattr(compilation, "MAX_PROGRAMS", 0)
    with compilations() as again:
        assert lower_bound(X, Z, config=CONFIG).nats == alone.nats
    monkeypatch.undo()
    with compilations() as none:
        lower_bound(X, Z, config=CONFIG)
    assert again
    assert not none


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_lower_bound_of_short_floats_is_that_of_the_same_numbers(dtype):
    x, z = X.astype(dtype), Z.astype(dtype)
    expected = lower_bound(x.astype(np.float64), z.astype(np.float64), config=CONFIG)
    assert lower_bound(x, z, config=CONFIG).nats == expected.nats
