"""Tests of `lower_bound` and of the classifier on several devices: the values of one device."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from test_devices import Normed, classifier_state, train

from mine_jax import lower_bound
from mine_jax.mine import MineConfig

# The mesh divides batches, and validation and test samples.
CONFIG = MineConfig(
    hidden=16,
    features=8,
    batch_size=64,
    check_every=10,
    max_steps=30,
    folds=2,
    patience=9,
    x_encoder="ranks",  # of all folds, so that states alone are warm starts
)
BATCH_SIZES = (16, 15)  # of a classifier: two devices share one of them
PROGRAM = """
import pickle, sys
from pathlib import Path
import conftest, jax
import numpy as np
from mine_jax import devices, lower_bound
from mine_jax.mine import MineConfig, stack
from test_devices import Normed, classifier_state, train
from test_devices_end_to_end import BATCH_SIZES, estimate

folder = Path(sys.argv[1])
states = pickle.loads((folder / "states").read_bytes())
assert devices.networks_mesh().size == 2
one_device = jax.device_put(states, jax.devices()[1])  # committed there
networks_shared = estimate(one_device, jax.device_put(jax.random.key(0), jax.devices()[0]))
with devices.use(2):
    batches_shared = estimate(states)
for active in ([1], [0, 1], [1, 0, 0], [0, 1, 1, 0, 1], None):
    number = 3 if active is None else len(active)
    values, active = np.arange(2.0 * number).reshape(number, 2), active and np.array(active, bool)
    options = {"common": (np.float32(3),), "active": active, "otherwise": -values}
    mapped = jax.jit(lambda mapper, options: stack.map_networks(
        mapper, lambda each, factor: each * factor, values, **options
    ), static_argnums=0)
    np.testing.assert_array_equal(mapped("map", options), mapped("vmap", options))
chosen = jax.device_put(jax.random.key(0), jax.devices()[1])
alone = MineConfig(hidden=8, max_steps=20, cross_fit=False)  # one network: one device
x = np.random.default_rng(0).normal(size=(200, 1))
assert np.isfinite(lower_bound(x, x + 1, key=chosen, config=alone).nats)
with jax.default_device("cpu"):
    assert np.isfinite(lower_bound(x, x + 1, key=chosen, config=alone).nats)
keys = jax.random.split(jax.random.key(3), 6)
placed = devices.replicate([keys[i] for i in range(6)])
np.testing.assert_array_equal(
    jax.random.key_data(jax.numpy.stack(placed)), jax.random.key_data(keys)
)
normed = classifier_state(model=Normed())
for leaf in jax.tree.leaves([classifier_state(), normed]):  # fits any number of devices
    assert len(leaf.sharding.device_set) == 1 and not leaf.committed
(folder / "normed").write_bytes(pickle.dumps(jax.device_get(normed)))
(folder / "classifiers").write_bytes(pickle.dumps([train(size) for size in BATCH_SIZES]))
(folder / "warm").write_bytes(pickle.dumps([networks_shared, batches_shared]))
"""


def estimate(init=None, key=None):
    """Return nats, influences and states of two arrays of different widths by name."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(480, 4))
    named = {"wide": x + rng.normal(size=x.shape), "narrow": x[:, :2] ** 2 + x[:, 2:]}
    estimates = lower_bound(x, named, key=key, config=CONFIG, init=init)
    return {name: (each.nats, each.influence, each.state) for name, each in estimates.items()}


def test_two_devices_give_the_values_of_one(tmp_path):
    cold = estimate()
    states = {name: state for name, (_, _, state) in cold.items()}
    (tmp_path / "states").write_bytes(pickle.dumps(states))
    folder = Path(__file__).parent
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join((str(folder.parent), str(folder))),
    }
    command = [sys.executable, "-c", PROGRAM, tmp_path]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        expected = estimate(states)
        classifiers = [train(size) for size in BATCH_SIZES]
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    shared = pickle.loads((tmp_path / "classifiers").read_bytes())
    np.testing.assert_allclose(shared, classifiers, rtol=1e-5)
    normed = pickle.loads((tmp_path / "normed").read_bytes())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        normed,
        jax.device_get(classifier_state(model=Normed())),
    )
    both_ways = pickle.loads((tmp_path / "warm").read_bytes())
    for name, (nats, influence, _), warm in (
        (name, value, warm) for warm in both_ways for name, value in expected.items()
    ):
        other_nats, other_influence, state = warm[name]
        assert abs(other_nats - nats) < 1e-3
        centered = (
            each - each.mean(axis=1, keepdims=True) for each in (other_influence, influence)
        )
        np.testing.assert_allclose(*centered, atol=5e-3)
        assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, states[name])
