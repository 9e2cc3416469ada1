"""Tests of a mesh over devices and processes: sharded work, results of a single device."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn

from mine_jax import classifier, devices

# Two processes with two devices each. Training uses the mesh as on one device.
PROGRAM = """
import sys
import jax, jax.numpy as jnp
from mine_jax import devices

jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from test_devices import train

with devices.use(None):
    assert devices.mesh().size == 4
    values = devices.replicate(jnp.ones((8, 3)))
    assert values.sharding.is_fully_replicated and len(values.sharding.device_set) == 4
    assert devices.replicate(values) is values
    key = devices.replicate(jax.random.key(1))
    assert (jax.random.key_data(key) == jax.random.key_data(jax.random.key(1))).all()

    product = jax.jit(lambda a, b: devices.shard_batch(a) @ b)
    for rows, rows_per_device in ((8, 2), (7, 7)):
        text = product.lower(jnp.ones((rows, 3)), jnp.ones((3, 5))).compile().as_text()
        assert f"f32[{rows_per_device},5]" in text, text
    print("results", *train())
try:
    devices.use(3).__enter__()
except ValueError as error:
    assert "must use all of their 4 devices" in str(error)
else:
    raise AssertionError("accepted 3 of 4 devices")
assert devices.mesh() is None
"""


class Linear(nn.Module):
    """Logits linear in the pixels."""

    @nn.compact
    def __call__(self, images):
        """Compute the logits."""
        return nn.Dense(3)(images)


class Normed(nn.Module):
    """Logits linear in the normalized pixels, half of them dropped."""

    @nn.compact
    def __call__(self, images, train=False):
        """Compute the logits."""
        normed = nn.BatchNorm(use_running_average=not train)(images)
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(normed))


def classifier_state(batch_size=16, model=None):
    """Train for an epoch; return the state."""
    return _trained(batch_size, model or Linear())[0]


def train(batch_size=16):
    """Train for an epoch; return the loss and the accuracy."""
    state, info, images, labels = _trained(batch_size, Linear())
    return info.train_loss, classifier.accuracy(state.params, Linear(), images, labels)


def _trained(batch_size, model):
    generator = np.random.default_rng(0)
    images, labels = generator.random((64, 5), np.float32), generator.integers(0, 3, 64)
    config = classifier.ClassifierConfig(batch_size, learning_rate=0.5)
    state = classifier.init(jax.random.key(0), model, config, (5,))
    state, info = classifier.train_epoch(state, jax.random.key(1), model, config, images, labels)
    return state, info, images, labels


def test_aligned_arrays_are_shared_with_a_cpu_device():
    values = np.random.default_rng(0).random((3, 5), np.float32)
    for array in (values, values.T, values[:, ::2], np.float32(3)[None]):
        aligned = devices.aligned(array)
        np.testing.assert_array_equal(aligned, array)
        assert aligned.ctypes.data % devices.ALIGNMENT == 0
        assert aligned.flags.c_contiguous
    aligned = devices.aligned(values)
    assert devices.aligned(aligned) is aligned
    if jax.default_backend() == "cpu":
        assert jax.device_put(aligned).unsafe_buffer_pointer() == aligned.ctypes.data


def test_use_in_two_processes_shards_batches_and_trains_as_one_device():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    folder = Path(__file__).parent
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join((str(folder.parent), str(folder))),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(i)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    with devices.use(1):
        expected = train()
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-2000:]
        results = next(line for line in output.splitlines() if line.startswith("results"))
        np.testing.assert_allclose(np.array(results.split()[1:], float), expected, rtol=1e-5)


def test_use_one_device_has_no_mesh_and_leaves_values_unchanged():
    values = np.ones((4, 2), np.float32)
    with devices.use(1):
        assert devices.mesh() is None
        assert devices.shard_batch(values) is values
        assert len(devices.replicate(values).sharding.device_set) == 1


@pytest.mark.parametrize("number", [0, -1, 1000])
def test_use_unavailable_number_of_devices_raises(number):
    with pytest.raises(ValueError, match=rf"num_devices must be in 1 … {len(jax.devices())}, got"):
        devices.use(number).__enter__()
