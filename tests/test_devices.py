"""Several devices and processes: the same numbers, and work that is really spread."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from mine_jax import devices

ROOT = Path(__file__).parents[1]

# One batch of a classifier, a fit of two stacks and what they are judged by.
PROGRAM = """
import sys
import jax, numpy as np
from mine_jax import LeNet5, classifier, devices, estimator, mine

if len(sys.argv) > 2:
    jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
wanted = int(sys.argv[1]) or None
generator = np.random.default_rng(0)
images = generator.random((64, 28, 28, 1), np.float32)
labels = generator.integers(0, 10, 64)
n = 480
y = generator.integers(0, 3, n)
x = (np.eye(3)[y] + 0.5 * generator.normal(size=(n, 3))).astype(np.float32)
z = (x[:, :2] + generator.normal(size=(n, 2))).astype(np.float32)
config = mine.MineConfig(
    network="separable", hidden=8, batch_size=48, max_steps=20, check_every=10, cross_fit=False
)
with devices.use(wanted):
    model, training = LeNet5(conv_form="native"), classifier.ClassifierConfig(batch_size=32)
    state = classifier.init(jax.random.key(0), model, training, images.shape[1:])
    state, info = classifier.train_epoch(
        state, jax.random.key(1), model, training, images, labels
    )
    right = classifier.accuracy(state.params, model, images, labels)
    found, _ = estimator.lower_bounds(
        {"x": estimator.prepare(x)},
        {"z": estimator.prepare(z), "y": estimator.prepare(y)},
        key=jax.random.key(2),
        config=config,
    )
numbers = [info.train_loss, right]
for estimate in found.values():
    numbers += [estimate.nats, estimate.stderr, estimate.train_nats, *estimate.influence[0][:3]]
print("numbers", *map(float, numbers))
"""


def start(*arguments, forced=1):
    flags = f"--xla_force_host_platform_device_count={forced}"
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def numbers(process):
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-2000:]
    return np.array(next(line for line in out.splitlines() if "numbers" in line).split()[1:], float)


def test_eight_devices_and_two_processes_give_what_one_does():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    one = numbers(start(1))
    assert one[2] > 0.2  # something was learnt
    eight = numbers(start(0, forced=8))
    pair = [start(0, address, i) for i in range(2)]
    first, second = map(numbers, pair)
    # Sums in another order, through 20 steps of Adam.
    np.testing.assert_allclose(eight, one, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(first, one, rtol=2e-3, atol=2e-4)
    np.testing.assert_array_equal(first, second)


SPREAD = textwrap.dedent(
    """
    import jax, jax.numpy as jnp
    from mine_jax import devices
    from mine_jax.compilation import jit

    @jit()
    def product(a, b):
        return devices.spread(a) @ b

    with devices.use(4):
        a = devices.everywhere(jnp.ones((8, 3)))
        assert len(a.sharding.device_set) == 4 and a.sharding.is_fully_replicated
        assert devices.everywhere(a) is a
        key = devices.everywhere(jax.random.key(1))
        assert (jax.random.key_data(key) == jax.random.key_data(jax.random.key(1))).all()
        text = product.jitted.lower(a, jnp.ones((3, 2))).compile().as_text()
        assert "f32[2,2]" in text  # two of eight rows on each
        assert product(a, jnp.ones((3, 2))).sharding.is_fully_replicated
        odd = product.jitted.lower(jnp.ones((7, 3)), jnp.ones((3, 2))).compile().as_text()
        assert "f32[7,2]" in odd
    assert devices.mesh() is None
    """
)


def test_the_rows_of_a_batch_are_spread_where_the_mesh_divides_them():
    environment = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    ran = subprocess.run(
        [sys.executable, "-c", SPREAD], env=os.environ | environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_without_a_mesh_nothing_changes():
    values = np.ones((4, 2), np.float32)
    with devices.use(1):
        assert devices.mesh() is None
        assert devices.spread(values) is values
        assert len(devices.everywhere(values).sharding.device_set) == 1


@pytest.mark.parametrize("number", [0, -1, 1000])
def test_a_number_of_devices_that_is_not_there_is_refused(number):
    with pytest.raises(ValueError, match=rf"num_devices must be in 1 … {len(jax.devices())}, got"):
        devices.use(number).__enter__()
