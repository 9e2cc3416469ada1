"""The same seed again: are the numbers the same, and what do others beside a place change?"""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mine_jax import information_plane, lower_bound
from mine_jax.classifier import ClassifierConfig
from mine_jax.information_plane import Place, PlaneConfig
from mine_jax.mine import MineConfig

from . import main_job

Row = tuple[str, str, str, str]
Rows = dict[Place, dict[str, Any]]

N = 1000
MINE = MineConfig(
    network="separable",
    hidden=16,
    depth=1,
    features=8,
    canonical_pairs=4,
    leading_pairs=0,
    batch_size=128,
    max_steps=300,
    cross_fit=False,
)
FIRST_STEP = dataclasses.replace(MINE, check_every=1, max_steps=1, reported_state="last")
BOTH = PlaneConfig(
    epochs=1,
    layers=("wide", "narrow"),
    probe_size=N,
    num_seeds=2,
    share_networks=False,
    classifier=ClassifierConfig(batch_size=50, learning_rate=0.05),
)
ROUNDING = 1e-5  # nats, of values after one step
# Of the rows and the noise that a place has, without networks.
INPUTS = ("noise_std", "num_axes", "reference_low_nats", "reference_high_nats")
SHORT = ("--dataset=mnist_5k", "--probe_size=1000", "--epochs=0", "--max_steps=50")


class Perceptron(nn.Module):
    """Two hidden layers; where `broken`, some seeds' logits are not finite after a step."""

    broken: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, probes: tuple[str, ...] = ()) -> Any:
        """Map (n, 5) to logits (n, 2), and layers on request."""
        wide = nn.tanh(nn.Dense(20)(images))
        narrow = nn.tanh(nn.Dense(12)(wide))
        logits = nn.Dense(2)(narrow)
        if self.broken:
            moved = self.param("moved", nn.initializers.zeros, (1, 2))
            chance = self.param("chance", nn.initializers.uniform(1.0), (1, 1))
            logits += moved + jnp.where((chance > 0.5) & (moved != 0), jnp.nan, 0)
        layers = {"wide": wide, "narrow": narrow}
        return (logits, {name: layers[name] for name in probes}) if probes else logits


class Different(nn.Module):
    """Two columns as they are; not a number where they are equal."""

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """Map (n, 2) to (n, 2)."""
        return jnp.where(values[:, :1] == values[:, 1:], jnp.nan, values)


def measure(folder: Path) -> tuple[list[Row], list[str]]:
    """Return rows and failures.

    Args:
      folder: for runs.
    """
    rows, failures = [], []

    def record(case: str, times: int, outcome: tuple[str, str]) -> None:
        returned, lost = outcome
        rows.append((case, str(times), returned, lost or "nothing"))
        failures.extend([f"{case}: {lost}."] if lost else [])
        print(rows[-1], flush=True)

    record("the same seed, twice in a process", 2, _twice())
    record("the same seed, in two processes (`info_plane.py`)", 2, _two_processes(folder))
    both = _first_and_last(BOTH)
    for case, alone in (
        ("another layer beside a place", dataclasses.replace(BOTH, layers=("narrow",))),
        ("another seed beside a place", dataclasses.replace(BOTH, num_seeds=1)),
    ):
        record(case, 1, _compare(_first_and_last(alone), both))
    record("one of two classifiers diverges", 1, _diverged())
    record("an encoder of the caller returns NaN for one of two names", 1, _encoder())
    return rows, failures


def _data(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return two classes of (N, 5) that overlap a little."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, N).astype(np.int32)
    return (rng.normal(size=(N, 5)) + 2 * labels[:, None]).astype(np.float32), labels


def _with(mine: MineConfig, config: PlaneConfig) -> PlaneConfig:
    return dataclasses.replace(config, mine=mine, noisy_x_mine=mine, noisy_y_mine=mine)


def _twice() -> tuple[str, str]:
    config, data = _with(dataclasses.replace(MINE, max_steps=100), BOTH), _data()
    results = [information_plane.run(Perceptron(), data, data, config) for _ in range(2)]
    first, second = (
        [{name: value for name, value in row.items() if name != "seconds"} for row in both]
        for both in ([*each.records, *each.training] for each in results)
    )
    same = sum(a == b for a, b in zip(first, second, strict=True))
    lost = "" if same == len(first) else f"{len(first) - same} rows differ"
    return f"{same} of {len(first)} rows equal bit for bit", lost


def _two_processes(folder: Path) -> tuple[str, str]:
    folders = folder / "first", folder / "second"
    for each in folders:
        shutil.rmtree(each, ignore_errors=True)
        outcome = main_job.run(each, *SHORT, cache=folder / "compiled")
        if outcome.status:
            return "a process failed", outcome.message
    found = main_job.differences(folders[1], folders[0])
    number = len((folders[0] / "records.jsonl").read_text().splitlines())
    return f"{number} rows of records and all figures, compared bit for bit", "; ".join(found)


def _first_and_last(config: PlaneConfig) -> tuple[Rows, Rows]:
    """Return the rows that a run has after one step of its networks, and at their end."""
    first, last = (_run(_with(mine, config)) for mine in (FIRST_STEP, MINE))
    return first, last


def _compare(alone: tuple[Rows, Rows], both: tuple[Rows, Rows]) -> tuple[str, str]:
    """Compare the places of a run with the same ones beside others."""
    first, last = zip(alone, both, strict=True)
    places = list(first[0])
    problems = [
        f"{place.name} has another {name}"
        for place in places
        for name in INPUTS
        if first[0][place][name] != first[1][place][name]
    ]
    step = max(
        abs(first[0][place][name] - first[1][place][name])
        for place in places
        for name in ("mi_nats", "train_nats")
    )
    ends = [
        abs(ours["mi_nats"] - theirs["mi_nats"]) / max(ours["stderr"], 1e-3)
        for ours, theirs in ((last[0][place], last[1][place]) for place in places)
    ]
    if step > ROUNDING:
        problems.append("values differ after one step")
    if max(ends) > 1:
        problems.append("values differ by more than a standard error")
    returned = (
        f"{len(places)} places: rows, noise and references equal bit for bit; values within "
        f"{step:.0e} nats after one step, and within {max(ends):.2g} standard errors at the end"
    )
    return returned, "; ".join(problems)


def _run(config: PlaneConfig) -> Rows:
    """Return the rows of epoch 0 by place."""
    data, config = _data(), dataclasses.replace(config, epochs=0)
    return {
        Place(row["plane"], row["variable"], row["layer"], row["seed"]): row
        for row in information_plane.run(Perceptron(), data, data, config).records
    }


def _diverged() -> tuple[str, str]:
    config = _with(dataclasses.replace(MINE, max_steps=50), dataclasses.replace(BOTH, seed=1))
    result = information_plane.run(Perceptron(broken=True), _data(), _data(), config)
    failed = [row["seed"] for row in result.training[2:] if row["train_loss"] is None]
    problems = []
    if len(failed) != 1 or f"loss of seed {failed[0]} is not finite" not in (result.stopped or ""):
        problems.append(f"seeds {failed} diverged, but the run says {result.stopped}")
    if {row["seed"] for row in result.records} != set(config.seeds):
        problems.append("rows of a seed are missing")
    said = (result.stopped or "").split(".")[0]
    return f"{len(result.records)} rows of both; the run {said}", "; ".join(problems)


def _encoder() -> tuple[str, str]:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(N, 2))
    good = x + rng.normal(size=(N, 2))
    named = {"good": good, "bad": np.repeat(good[:, :1], 2, axis=1)}
    config = dataclasses.replace(MINE, network="auto", z_encoder=Different())
    found = lower_bound(x, named, config=config, discrete=False)
    said = [text for text in found["bad"].warnings if "z_encoder, Different" in text]
    problems = [] if said else ["no warning names the encoder"]
    if abs(found["good"].nats - math.log(2)) > 4 * found["good"].stderr:
        problems.append(f"{found['good'].nats:.2f} nats of the other name are not near ln 2")
    returned = f"{found['bad'].nats:.2f} nats, {' '.join(said)} The other: {found['good'].nats:.2f}"
    return returned, "; ".join(problems)
