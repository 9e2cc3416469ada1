"""Numbers: does a bound drift in long training, and does the same seed give the same numbers?"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from mine_jax import lower_bound
from mine_jax.mine import MineConfig

from . import reproducibility
from .table import Table

STEPS, CHECKS, N, RHO = 200_000, 200, 4000, 0.8
CONFIG: dict[str, Any] = {
    "hidden": 16,
    "depth": 1,
    "batch_size": 128,
    "check_every": STEPS // CHECKS,
    "max_steps": STEPS,
    "patience": 10**6,
    "min_improvement": 0.0,
    "reported_state": "last",
    "cross_fit": False,
}
CONFIGS = {
    "InfoNCE": MineConfig(network="separable", canonical_pairs=0, features=8, **CONFIG),
    "MINE as published": MineConfig.published(**CONFIG),
    "MINE, corrected gradient": MineConfig.published(corrected_gradient=True, **CONFIG),
}


def measure(folder: Path, times: int | None) -> Table:
    """Train each network for `STEPS` steps on correlated normal columns; repeat runs.

    Args:
      folder: for runs.
      times: not used; each is trained once.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 1))
    z = RHO * x + math.sqrt(1 - RHO**2) * rng.normal(size=(N, 1))
    truth = -0.5 * math.log(1 - RHO**2)
    rows, failures = [], []
    for name, config in CONFIGS.items():
        estimate = lower_bound(x, z, config=config, discrete=False)
        values = estimate.history.validation_nats[1:, 0]
        early, late = values[: CHECKS // 2].mean(), values[CHECKS // 2 :].mean()
        if not np.isfinite(values).all() or len(values) != CHECKS:
            failures.append(f"{name}: training was not finite to its last step.")
        if abs(late - early) > estimate.validation_stderr:
            failures.append(f"{name}: the bound moved from {early:.3f} to {late:.3f} nats.")
        if estimate.nats > truth + 3 * estimate.stderr:
            failures.append(f"{name}: {estimate.nats:.3f} nats is above the truth, {truth:.3f}.")
        rows.append(
            (
                f"{name}, {estimate.steps:,} steps",
                "1",
                f"{estimate.nats:.3f} ± {estimate.stderr:.3f} nats; on validation samples "
                f"{early:.3f} in the first half of the steps, {late:.3f} in the second",
                str(int(np.sum(~np.isfinite(values)))),
            )
        )
    more, lost = reproducibility.measure(folder)
    note = (
        f"Long training: {N:,} samples of two normal columns of correlation {RHO}, {truth:.3f} "
        "nats; the last state is reported; lost: checks with a value that was not finite. "
        f"The same seed again: runs of small networks and {reproducibility.N:,} samples."
    )
    columns = ("case", "times", "came back", "lost")
    failures += lost
    return Table("Numbers", columns, (*rows, *more), note, tuple(failures))
