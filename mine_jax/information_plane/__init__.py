"""The information plane of a model in training: train k epochs, probe, fit, record."""

from mine_jax.information_plane.config import (
    NOISY_ROUND_CONFIG,
    POSTER_CONFIG,
    ROUND_CONFIG,
    PlaneConfig,
    probe_rows,
    resolved,
    seed_keys,
)
from mine_jax.information_plane.measurement import measure, pairs_of
from mine_jax.information_plane.observation import (
    Observed,
    alignment_target,
    observe,
    prepare_variables,
    read_layers,
)
from mine_jax.information_plane.run import Result, run

__all__ = [
    "NOISY_ROUND_CONFIG",
    "POSTER_CONFIG",
    "ROUND_CONFIG",
    "Observed",
    "PlaneConfig",
    "Result",
    "alignment_target",
    "measure",
    "observe",
    "pairs_of",
    "prepare_variables",
    "probe_rows",
    "read_layers",
    "resolved",
    "run",
    "seed_keys",
]
