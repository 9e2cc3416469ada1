"""The information plane of a model in training: train k epochs, probe, fit, record."""

from mine_jax.information_plane.config import (
    NOISY_X_CONFIG,
    NOISY_Y_CONFIG,
    POSTER_CONFIG,
    ROUND_CONFIG,
    PlaneConfig,
    probe_rows,
    resolved,
    seed_keys,
    split_rows,
)
from mine_jax.information_plane.measurement import Place, Round, measure, pairs_of
from mine_jax.information_plane.observation import (
    Layers,
    Observed,
    View,
    alignment_target,
    observe,
    prepare_variables,
    read_layers,
)
from mine_jax.information_plane.planes import Plane, load
from mine_jax.information_plane.recorder import Recorder, plane
from mine_jax.information_plane.run import Result, run
from mine_jax.information_plane.snapshots import (
    LayerValue,
    Measured,
    RoundState,
    measure_layers,
)
from mine_jax.information_plane.targets import Target, read_target

__all__ = [
    "NOISY_X_CONFIG",
    "NOISY_Y_CONFIG",
    "POSTER_CONFIG",
    "ROUND_CONFIG",
    "LayerValue",
    "Layers",
    "Measured",
    "Observed",
    "Place",
    "Plane",
    "PlaneConfig",
    "Recorder",
    "Result",
    "Round",
    "RoundState",
    "Target",
    "View",
    "alignment_target",
    "load",
    "measure",
    "measure_layers",
    "observe",
    "pairs_of",
    "plane",
    "prepare_variables",
    "probe_rows",
    "read_layers",
    "read_target",
    "resolved",
    "run",
    "seed_keys",
    "split_rows",
]
