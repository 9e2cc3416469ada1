"""One round: the pairs, the choice of networks, and the rows."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax import estimate
from mine_jax.information_plane import (
    Observed,
    PlaneConfig,
    exact,
    measure,
    measurement,
    pairs_of,
)
from mine_jax.information_plane.measurement import choose_networks, paired_drop

LABELS = jnp.eye(3, dtype=jnp.uint8)[jnp.arange(12) % 3]
VARIABLES = {"x": jnp.zeros((12, 1)), "y": LABELS}


def observed_layer(value=0.0):
    layer = jnp.full((12, 3), value)
    reference = exact.NoisyLayer(2.0 + value, 0.02, 1.0 + value, 0.01, 12)
    return Observed(layer, layer + 0.5, layer - 1, 0.5, 0.25, reference)


def estimate_of(nats=1.0, validation_nats=None, validation_stderr=0.1, **changes):
    values = {
        "nats": nats,
        "stderr": 0.02,
        "train_nats": nats + 0.1,
        "ceiling_nats": 5.0,
        "steps": 100,
        "converged": True,
        "warnings": (f"about {nats}",),
        "influence": np.zeros((1, 12)),
        "validation_nats": nats if validation_nats is None else validation_nats,
        "validation_stderr": validation_stderr,
        "state": f"state of {nats}",
    }
    return SimpleNamespace(**(values | changes))


@pytest.fixture
def measure_with(monkeypatch):
    """`measure` with given estimates: rows by (seed, variable, layer), states, and the call."""

    def run(estimates, layers, variables=VARIABLES, config=None, **options):
        call = {}

        def lower_bounds(pairs, **arguments):
            call.update(arguments, pairs=pairs)
            arguments["on_progress"](1, 2, "some text")
            return estimates

        monkeypatch.setattr(estimate, "lower_bounds", lower_bounds)
        config = config or PlaneConfig()
        rows, states = measure(
            variables, layers, epoch=4, config=config, key=jax.random.key(0), **options
        )
        return {(row["seed"], row["variable"], row["layer"]): row for row in rows}, states, call

    return run


def plain_layers(*names):
    return {name: jnp.zeros((12, 2)) for name in names}


def test_pairs_of_without_noise_has_labels_in_z():
    layers = plain_layers("a", "b")
    pairs = pairs_of(VARIABLES, {7: layers})
    assert list(pairs) == ["x;a", "x;b", "y;a", "y;b"]
    assert {pair.seed for pair in pairs.values()} == {7}
    # The very arrays: samples that several networks share are held once.
    for name, layer in layers.items():
        assert pairs[f"x;{name}"].x.measured is VARIABLES["x"]
        assert pairs[f"x;{name}"].z.measured is layer
        assert pairs[f"y;{name}"].x.measured is layer
        assert pairs[f"y;{name}"].z.measured is LABELS
    assert all(side.noiseless is None for pair in pairs.values() for side in pair[:2])


def test_pairs_of_several_seeds_name_them():
    pairs = pairs_of(VARIABLES, {3: plain_layers("a"), 4: plain_layers("a")})
    names = ["x;a of seed 3", "y;a of seed 3", "x;a of seed 4", "y;a of seed 4"]
    assert list(pairs) == names
    assert [pair.seed for pair in pairs.values()] == [3, 3, 4, 4]


@pytest.mark.parametrize("variables", [VARIABLES, {"y": LABELS}], ids=["with x", "without x"])
def test_pairs_of_with_noise_has_the_noisy_side_first(variables):
    layer = observed_layer()
    pairs = pairs_of(variables, {0: {"a": layer}})
    assert list(pairs) == ["x;a", "y;a"]
    for pair in pairs.values():
        assert pair.x.measured is layer.observed
        assert pair.x.noiseless is layer.observed_without_noise
        assert pair.x.noise_std == 0.5
        assert pair.z.noiseless is None
    assert pairs["x;a"].z.measured is layer.layer
    assert pairs["y;a"].z.measured is LABELS


def test_pairs_of_with_some_noisy_layers_raises():
    with pytest.raises(ValueError, match="all be observed with noise, or none"):
        pairs_of(VARIABLES, {0: plain_layers("a") | {"b": observed_layer()}})


def networks(*estimates):
    return "".join(choose_networks(dict(zip("abc", estimates, strict=False))).values())[::-1]


def test_choose_networks_takes_the_later_one_unless_the_own_is_clearly_better():
    # b is better than c by more than its standard error, a is not that much better than b.
    assert networks(estimate_of(2.05), estimate_of(2.0), estimate_of(1.0)) == "bbc"
    assert networks(estimate_of(0.7), estimate_of(0.8), estimate_of(0.9)) == "ccc"


@pytest.mark.parametrize(
    ("validation_nats", "validation_stderr", "chosen"),
    [(1.11, 0.1, "a"), (1.09, 0.1, "b"), (1.09, 0.05, "a"), (0.9, 0.1, "b"), (math.nan, 0.1, "b")],
)
@pytest.mark.parametrize("nats", [-100.0, 100.0, math.nan])
def test_choose_networks_ignores_test_samples(validation_nats, validation_stderr, chosen, nats):
    own = estimate_of(nats, validation_nats, validation_stderr)
    assert networks(own, estimate_of(0.0, 1.0, 10.0)) == chosen + "b"


def test_choose_networks_does_not_take_one_that_diverged():
    assert networks(estimate_of(0.5), estimate_of(math.nan)) == "ab"


def test_measure_rows_hold_the_chosen_network_and_the_own_one(measure_with):
    influences = [np.linspace(0, end, 12)[None] for end in (1.0, 2.0, 0.5)]
    estimates = {
        "y;a": estimate_of(3.0, 2.05, steps=300, influence=influences[0]),
        "y;b": estimate_of(2.0, 2.0, influence=influences[1]),
        "y;c": estimate_of(1.0, 1.0, influence=influences[2]),
    }
    layers = {0: plain_layers("a", "b", "c")}
    rows, states, call = measure_with(estimates, layers, {"y": LABELS})
    assert list(call["pairs"]) == list(estimates)
    assert call["round_number"] == 4
    assert states == {name: each.state for name, each in estimates.items()}
    first, second, third = rows.values()
    assert [row["network"] for row in rows.values()] == ["b", "b", "c"]
    assert (first["mi_nats"], first["own_nats"], first["train_nats"]) == (2.0, 3.0, 2.1)
    assert first["warnings"] == ["about 2.0"]
    assert (first["steps"], second["steps"]) == (300, 100)  # of the layer's own network
    assert first["drop_nats"] is first["own_drop_nats"] is None
    # Of the networks whose values are reported: the same one, then two different ones.
    assert (second["drop_nats"], second["drop_stderr"]) == (0.0, 0.0)
    assert third["drop_nats"] == 1.0
    stderr = np.linspace(0, 2.0 - 0.5, 12).std(ddof=1) / math.sqrt(12)
    assert third["drop_stderr"] == pytest.approx(stderr)
    assert second["own_drop_nats"] == 1.0
    stderr = np.linspace(0, 1.0 - 2.0, 12).std(ddof=1) / math.sqrt(12)
    assert second["own_drop_stderr"] == pytest.approx(stderr)
    assert {row["reference_nats"] for row in rows.values()} == {None}
    assert {(row["epoch"], row["noise_std"]) for row in rows.values()} == {(4, 0.0)}


def test_measure_without_sharing_keeps_own_networks(measure_with):
    estimates = {"y;a": estimate_of(0.5), "y;b": estimate_of(1.0)}
    layers, config = {0: plain_layers("a", "b")}, PlaneConfig(share_networks=False)
    rows, _, _ = measure_with(estimates, layers, {"y": LABELS}, config)
    assert [row["network"] for row in rows.values()] == ["a", "b"]
    assert rows[0, "y", "b"]["drop_nats"] == rows[0, "y", "b"]["own_drop_nats"] == -0.5


def test_measure_own_network_not_converged_is_reported_where_not_used(measure_with):
    estimates = {
        "y;a": estimate_of(0.5, converged=False, warnings=("Not converged.",)),
        "y;b": estimate_of(1.0, warnings=()),
    }
    rows, _, _ = measure_with(estimates, {0: plain_layers("a", "b")}, {"y": LABELS})
    assert rows[0, "y", "a"]["converged"] is False
    assert rows[0, "y", "a"]["warnings"] == ["The layer's own network, not used: Not converged."]
    assert rows[0, "y", "b"]["converged"] is True


def test_measure_diverged_values_are_null(measure_with):
    estimates = {"y;a": estimate_of(0.5), "y;b": estimate_of(math.nan)}
    rows, _, _ = measure_with(estimates, {0: plain_layers("a", "b")}, {"y": LABELS})
    assert (rows[0, "y", "a"]["mi_nats"], rows[0, "y", "b"]["mi_nats"]) == (0.5, None)
    assert rows[0, "y", "b"]["drop_nats"] is None


def test_measure_noisy_layers_have_references_and_keep_own_networks(measure_with):
    layers = {0: {"a": observed_layer(0.0), "b": observed_layer(0.25)}}
    estimates = {name: estimate_of(nats) for name, nats in (("x;a", 1.0), ("x;b", 3.0))}
    estimates |= {name: estimate_of(nats) for name, nats in (("y;a", 0.5), ("y;b", 0.9))}
    rows, _, _ = measure_with(estimates, layers)
    assert list(rows) == [(0, variable, layer) for variable in "xy" for layer in "ab"]
    references = [(row["reference_nats"], row["reference_stderr"]) for row in rows.values()]
    assert references == [(2.0, 0.02), (2.25, 0.02), (1.0, 0.01), (1.25, 0.01)]
    for (_, _, layer), row in rows.items():
        assert (row["network"], row["noise_std"]) == (layer, 0.25)
        assert row["mi_nats"] == row["own_nats"]


def test_measure_several_seeds_use_their_own_estimates(measure_with):
    layers = {seed: plain_layers("a", "b") for seed in (3, 4)}
    names = [f"y;{layer} of seed {seed}" for seed in (3, 4) for layer in "ab"]
    estimates = {name: estimate_of(float(i)) for i, name in enumerate(names)}
    rows, states, call = measure_with(estimates, layers, {"y": LABELS}, init={"some": "state"})
    assert [row["own_nats"] for row in rows.values()] == [0.0, 1.0, 2.0, 3.0]
    assert [row["drop_nats"] for row in rows.values()] == [None, 0.0, None, 0.0]  # not of seed 3
    assert all(row["warm_start"] for row in rows.values())
    assert call["init"] == {"some": "state"}
    assert list(states) == names


def test_paired_drop_error_is_that_of_paired_samples():
    rng = np.random.default_rng(2)
    luck, noise = rng.normal(size=(2, 4, 100))
    noise += np.arange(4)[:, None]  # a constant of each fold's T counts for nothing
    earlier, later = estimate_of(1.0, influence=luck), estimate_of(0.8, influence=luck + noise / 10)
    drop, stderr = paired_drop(earlier, later)
    assert drop == pytest.approx(0.2)
    # The luck of the samples is in both values: it is not in the error of their difference.
    assert stderr == pytest.approx(0.1 / math.sqrt(400), rel=0.1)


def test_progress_bar_shows_the_description_only_if_asked(capsys):
    for show in (True, False):
        with measurement.progress_bar("probe at epoch 8", show) as update:
            update(3, 7, "x;conv1 1.25")
        assert ("probe at epoch 8" in capsys.readouterr().err) is show
