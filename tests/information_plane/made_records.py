"""Records with known values, for the tests of what is drawn from them."""

import itertools
import math

import numpy as np

LAYERS = ("conv1", "conv2", "relu3", "soft$max$")
EPOCHS, PLANES = (0, 4, 8), ("observed", "deterministic")
DESCRIPTION = {"dataset": "mnist", "probe_size": 20_000, "report_size": 4_000, "notice": ""}
DESCRIPTION |= {"class_entropy_nats": 2.3017, "noise": "layer", "noise_level": 0.25}
LOW, HIGH = {"x": 0.03, "y": 0.01}, {"x": 0.2, "y": 0.07}  # ends of brackets from the value


def nats(plane, variable, epoch, layer, seed=7):
    """A value that no other plane, variable, epoch, layer and seed has."""
    start = {"observed": (4.0, 1.0), "deterministic": (7.0, 2.0)}[plane]["xy".index(variable)]
    return start + 0.02 * epoch + 0.03 * layer * (1 + (variable == "x")) + 0.003 * seed


def make_records(epochs=EPOCHS, seeds=(7,), planes=PLANES, **values):
    rows = []
    places = itertools.product(seeds, epochs, planes, "xy", enumerate(LAYERS))
    for seed, epoch, plane, v, (i, layer) in places:
        value, observed = nats(plane, v, epoch, i, seed), plane == "observed"
        row = {"seed": seed, "epoch": epoch, "layer": layer, "variable": v, "plane": plane}
        row |= {"mi_nats": value, "own_nats": value, "stderr": 0.01, "network": layer}
        row |= {"ceiling_nats": math.log(4_000), "converged": True, "warnings": []}
        row["reference_low_nats"] = value - LOW[v] if observed else None
        row["reference_high_nats"] = value + HIGH[v] if observed else None
        rows.append(row | values)
    return rows


def path_of(plane, layer, seed=7):
    """The path through the plane, (epochs, 2)."""
    return np.array([[nats(plane, v, epoch, layer, seed) for v in "xy"] for epoch in EPOCHS])
