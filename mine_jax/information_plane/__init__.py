"""The information plane of a model in training: train k epochs, probe, fit, record."""

from mine_jax.information_plane.run import (
    ROUND,
    ROUND_WITH_NOISE,
    Inputs,
    Observed,
    PlaneConfig,
    Result,
    inputs_of,
    measure,
    measure_all,
    observe,
    probe_rows,
    read_layers,
    run,
    turned_to,
)

__all__ = [
    "ROUND",
    "ROUND_WITH_NOISE",
    "Inputs",
    "Observed",
    "PlaneConfig",
    "Result",
    "inputs_of",
    "measure",
    "measure_all",
    "observe",
    "probe_rows",
    "read_layers",
    "run",
    "turned_to",
]
