"""Runs that differ in their seed alone, as one plane with several seeds."""

from collections.abc import Sequence
from typing import Any

from mine_jax.information_plane.figure_table import DESCRIPTION_KEYS
from mine_jax.information_plane.planes import Plane, Row

# What a seed decides: the networks, and which samples are probed and how they are split.
OF_SEED = ("seed", "num_seeds", "keys", "probe_rows_sha256", "split_sha256", "class_entropy_nats")


def merge_seeds(planes: Sequence[Plane]) -> Plane | None:
    """Merge runs of the same settings with different seeds.

    Runs of `Recorder`s, whose records all have seed 0, have different seeds if their keys differ;
    their records are numbered in the order of the runs.

    Args:
      planes: runs, at least one.

    Returns:
      A plane with the records of all runs and the description of the first; None if settings,
      layers or epochs differ, or runs have a seed in common.
    """
    if len(planes) == 1:
        return planes[0]
    if any(_settings(plane) != _settings(planes[0]) for plane in planes[1:]):
        return None
    seeds = [seed for plane in planes for seed in {row["seed"] for row in plane.records}]
    if len(set(seeds)) < len(seeds):
        keys = [_keys(plane) for plane in planes]
        if None in keys or any(key in keys[:i] for i, key in enumerate(keys)):
            return None
        planes = [_numbered(plane, seed) for seed, plane in enumerate(planes)]
    records = [row for plane in planes for row in plane.records]
    training = [row for plane in planes for row in plane.training]
    return Plane(tuple(records), planes[0].description, tuple(training))


def _settings(plane: Plane) -> Any:
    """Return what must be the same in runs that differ in their seed alone."""
    described = {key: plane.description.get(key) for key in (*DESCRIPTION_KEYS, "population")}
    described["settings"] = plane.description.get("resolved", plane.description.get("settings"))
    for key in ("plane", "layer", "epoch"):
        described[key] = list(dict.fromkeys(row[key] for row in plane.records))
    return _without_seeds(described)


def _without_seeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_seeds(item) for key, item in value.items() if key not in OF_SEED}
    return value


def _keys(plane: Plane) -> Any:
    """Return the PRNG keys of a `Recorder`; None of other runs."""
    settings = plane.description.get("settings")
    return settings.get("keys") if isinstance(settings, dict) else None


def _numbered(plane: Plane, seed: int) -> Plane:
    records: tuple[Row, ...] = tuple(row | {"seed": seed} for row in plane.records)
    return Plane(records, plane.description, plane.training)
