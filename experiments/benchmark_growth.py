"""Time of a step and of an evaluation of a stack of networks, as one size grows at a time."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from common import markdown_table

if TYPE_CHECKING:  # imported where needed, so that --help answers at once
    from mine_jax import MineConfig
    from mine_jax.mine.stack import Data

# The usual sizes, and the values that one of them at a time takes.
USUAL_SIZES = {"samples n": 4000, "columns of z": 32, "layers": 1, "batch": 256, "hidden": 128}
GROWING_SIZES = {
    "samples n": (500, 1000, 2000, 4000, 8000),
    "columns of z": (8, 32, 128, 512, 2048),
    "layers": (1, 2, 4, 8),
    "batch": (64, 128, 256, 512, 1024),
    "hidden": (32, 64, 128, 256, 512),
}


def seconds_of(call: Callable[[], Any]) -> float:
    """Measure the seconds until the results of a call are there."""
    import jax

    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def chunk_call(data: "Data", config: "MineConfig", steps: int) -> Callable[[], Any]:
    """Return a call that takes so many steps of every network of a stack."""
    import jax
    import numpy as np

    from mine_jax import devices
    from mine_jax.mine import chunks, training

    networks = len(data.x.index)
    shape = 1, steps, config.batch_size
    batches = np.random.default_rng(0).integers(0, data.x.measured.shape[1], shape, np.int32)
    with devices.for_networks(networks):
        data = devices.replicate(data)
        state = training.init_stack(jax.random.split(jax.random.key(0), networks), data, config)
        arguments = devices.replicate(
            (
                state,
                np.ones(networks, bool),
                np.full(networks, config.learning_rate, np.float32),
                jax.random.split(jax.random.key(1), 1),
                np.int32(0),
                batches,
                np.zeros(networks, np.int32),
                data,
            )
        )

    def call() -> Any:
        with devices.for_networks(networks):
            return chunks.train_chunk(*arguments, config)

    return call


def measure(steps: int, repeats: int) -> list[dict[str, Any]]:
    """Time a step, and the evaluation of n samples, as one size grows at a time.

    The networks are separable, and the samples not prepared: preparation narrows wide layers.

    Args:
      steps: number of steps in one measurement.
      repeats: number of measurements, after one to warm up.

    Returns:
      Rows of `what` is measured, the `size` that grows, its `value`, and median, `fastest` and
      `slowest` `milliseconds`.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mine_jax import MineConfig, devices, mine
    from mine_jax.mine import evaluation, training

    rows = []
    varied = [(size, value) for size, values in GROWING_SIZES.items() for value in values]
    for size, value in varied:
        n, width, layers, batch, hidden = (USUAL_SIZES | {size: value}).values()
        config = MineConfig(network="separable", hidden=hidden, batch_size=batch)
        samples = np.random.default_rng(0).normal(size=(n, 32 + layers * width))
        columns = jnp.asarray(samples.astype(np.float32))
        x, *z = map(mine.Samples, jnp.split(columns, 32 + width * np.arange(layers), axis=1))
        data = devices.replicate(mine.stack.stack_samples([(x, layer) for layer in z]))
        state = training.init_stack(jax.random.split(jax.random.key(0), layers), data, config)
        every_row = jnp.tile(jnp.arange(n, dtype=jnp.int32)[None], (layers, 1))
        calls = {"step": (chunk_call(data, config, steps), steps)}
        if size != "batch":  # an evaluation has none
            evaluate = partial(evaluation.evaluate_rows, state, data, every_row, config)
            calls["evaluation"] = evaluate, 1
        for name, (call, count) in calls.items():
            seconds = [seconds_of(call) for _ in range(repeats + 1)][1:]
            names = {"milliseconds": statistics.median, "fastest": min, "slowest": max}
            times = {key: 1e3 * choose(seconds) / count for key, choose in names.items()}
            rows.append({"what": name, "size": size, "value": value} | times)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table of curves: their ends, and the exponent of growth over the larger half."""
    lines = []
    for name, size in dict.fromkeys((row["what"], row["size"]) for row in rows):
        curve = [row for row in rows if (row["what"], row["size"]) == (name, size)]
        first, middle, last = curve[0], curve[len(curve) // 2], curve[-1]
        growth = math.log(last["milliseconds"] / middle["milliseconds"])
        exponent = growth / math.log(last["value"] / middle["value"])
        lines.append(
            [
                f"{name} against {size}",
                f"{first['value']:,} … {last['value']:,}",
                f"{first['milliseconds']:.2f} … {last['milliseconds']:.2f}",
                f"{exponent:.2f}",
            ]
        )
    return markdown_table(["", "sizes", "ms", "exponent"], lines)
