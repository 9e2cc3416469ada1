"""One round: the pairs, the choice of networks, and the rows of both planes."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax import estimate
from mine_jax.estimate import Estimate
from mine_jax.information_plane import (
    Layers,
    Observed,
    Place,
    PlaneConfig,
    View,
    measure,
    pairs_of,
)
from mine_jax.information_plane.brackets import Bracket, Side
from mine_jax.information_plane.measurement import Value, choose_networks, paired_drop
from mine_jax.information_plane.observation import NO_VARIANCE
from mine_jax.mine import Samples

LABELS = jnp.eye(3, dtype=jnp.uint8)[jnp.arange(12) % 3]
VARIABLES = {"x": jnp.zeros((12, 1)), "y": LABELS}
CONFIG = PlaneConfig(noise_std=0.5)
RAMP = np.linspace(-1, 1, 12)
COLUMNS = (
    *("seed", "epoch", "layer", "variable", "plane"),
    *("mi_nats", "stderr", "train_nats", "ceiling_nats", "network", "own_nats", "steps"),
    *("converged", "warnings", "noise_std", "noise_level", "reference_nats", "reference_stderr"),
    *("reference_low_nats", "reference_low_stderr", "reference_high_nats", "reference_high_stderr"),
    *("low_difference_nats", "low_difference_stderr"),
    *("high_difference_nats", "high_difference_stderr"),
    *("gaussian_bound_nats", "num_images", "num_axes", "lost_nats", "warm_start", "seconds"),
    *("drop_nats", "drop_stderr", "own_drop_nats", "own_drop_stderr"),
    *("change_nats", "change_stderr"),
)


def side(nats, slope=0.0):
    return Side(nats, 0.02, nats + slope * RAMP)


def view(width, lost=0.01):
    layer = jnp.zeros((12, width))
    return View(Samples(layer + 0.5, layer, 0.25), layer, lost)


def observed_layer(noise_std=2.0, lost=0.01, high=True, compared=None):
    bracket = Bracket(
        side(2.0, 0.5), side(3.0, 4.0) if high else None, side(0.4) if high else None, side(0.9)
    )
    return Observed(view(3, lost), view(2), noise_std, bracket, 3.5, compared or {})


def layers(*names, **observed):
    """Layers of one classifier: names without noise, and observed ones."""
    return Layers(observed, {name: jnp.zeros((12, 2)) for name in names}, {})


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
    return Estimate(history=None, **(values | changes))


@pytest.fixture
def measure_with(monkeypatch):
    """`measure` with given estimates by (plane, variable, layer): rows likewise, and the calls."""

    def run(estimates, of_seeds, variables=VARIABLES, config=CONFIG, **options):
        calls = []
        named = {
            Place(*place, seed=seed).name: found
            for place, by_seed in estimates.items()
            for seed, found in (by_seed if isinstance(by_seed, dict) else {0: by_seed}).items()
        }

        def lower_bounds(pairs, **arguments):
            calls.append(arguments | {"pairs": list(pairs)})
            arguments["on_progress"](1, 2, "some text")
            return {name: named[name] for name in pairs}

        monkeypatch.setattr(estimate, "lower_bounds", lower_bounds)
        if isinstance(of_seeds, Layers):
            of_seeds = {0: of_seeds}
        names = dict.fromkeys(name for of in of_seeds.values() for part in of for name in part)
        config = replace(config, layers=tuple(names))
        key = jax.random.key(0)
        result = measure(variables, of_seeds, epoch=4, config=config, key=key, **options)
        assert result.states == {name: each.state for name, each in named.items()}
        rows = {}
        for row in result.rows:
            place = row["plane"], row["variable"], row["layer"]
            rows[(*place, row["seed"]) if len(of_seeds) > 1 else place] = row
        return rows, result, calls

    return run


def test_pairs_of_have_the_noisy_side_first_and_labels_in_z():
    of_seed = {seed: layers("a", "b", a=observed_layer(), b=observed_layer()) for seed in (3, 4)}
    pairs = pairs_of(VARIABLES, of_seed)
    places = [
        *(Place("observed", variable, name, 3) for name in "ab" for variable in "xy"),
        *(Place("deterministic", variable, name, 3) for variable in "xy" for name in "ab"),
    ]
    assert list(pairs) == places + [place._replace(seed=4) for place in places]
    assert len({place.name for place in pairs}) == 16
    for place, pair in pairs.items():
        assert pair.seed == place.seed
        # The very arrays: samples that several networks share are held once.
        if place.plane == "observed":
            layer = of_seed[place.seed].observed[place.layer]
            seen = layer.for_x if place.variable == "x" else layer.for_y
            assert pair.x is seen.observed
            # Without noise the layer represents X.
            assert pair.z.measured is (seen.layer if place.variable == "x" else LABELS)
        else:
            layer = of_seed[place.seed].deterministic[place.layer]
            sides = (VARIABLES["x"], layer) if place.variable == "x" else (layer, LABELS)
            assert all(each.measured is side for each, side in zip(pair[:2], sides, strict=True))
            assert pair.x.noiseless is None
        assert pair.z.noiseless is None
    # The images have no part in the observed plane.
    alone = pairs_of({"y": LABELS}, {3: layers(a=observed_layer())})
    assert list(alone) == [Place("observed", variable, "a", 3) for variable in "xy"]


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


def test_measure_rows_of_both_planes_have_the_same_columns(measure_with):
    estimates = {
        ("observed", "x", "a"): estimate_of(1.0),
        ("observed", "x", "b"): estimate_of(3.0),
        ("observed", "y", "a"): estimate_of(0.5),
        ("observed", "y", "b"): estimate_of(0.9),
        ("deterministic", "x", "a"): estimate_of(1.0),
        ("deterministic", "x", "b"): estimate_of(3.0),
        ("deterministic", "y", "a"): estimate_of(0.5),
        ("deterministic", "y", "b"): estimate_of(0.9),
    }
    both = layers("a", "b", a=observed_layer(), b=observed_layer())
    rows, result, calls = measure_with(estimates, both)
    assert list(rows) == list(estimates)
    for row in rows.values():
        assert set(row) == set(COLUMNS)
        assert (row["epoch"], row["seed"], row["warm_start"]) == (4, 0, False)
    assert set(result.values) == {Place(*place, seed=0).name for place in rows}
    # Measurement noise is no Markov chain: a later network is never taken over.
    networks = [row["network"] for row in rows.values()]
    assert networks == ["a", "b", "a", "b", "b", "b", "b", "b"]
    # Each plane with its configurations, on one split.
    configs = [CONFIG.noisy_x_mine, CONFIG.noisy_y_mine, CONFIG.mine]
    assert [call["config"] for call in calls] == configs
    assert [len(call["pairs"]) for call in calls] == [2, 2, 4]
    assert len({id(call["key"]) for call in calls}) == 1
    assert {call["round_number"] for call in calls} == {4}
    x, y, *_, without = (rows[place] for place in list(estimates)[1:5])
    assert x["mi_nats"] == x["own_nats"] == 3.0
    columns = ("reference_nats", "reference_low_nats", "reference_high_nats", "gaussian_bound_nats")
    assert [x[name] for name in columns] == [2.0, 2.0, 3.0, 3.5]
    assert [y[name] for name in columns] == [0.9, 0.4, 0.9, None]
    assert [without[name] for name in columns] == [None] * 4
    columns = ("noise_std", "noise_level", "num_images", "num_axes", "lost_nats")
    assert [x[name] for name in columns] == [2.0, 0.5, 12, 3, 0.01]
    assert [y[name] for name in columns] == [2.0, 0.5, 12, 2, 0.01]
    assert [without[name] for name in columns] == [0.0, 0.0, None, None, None]


def test_measure_differences_to_references_have_the_error_of_paired_samples(measure_with):
    found = estimate_of(2.75, influence=(2.0 * RAMP)[None])
    rows, *_ = measure_with(
        {("observed", "x", "a"): found, ("observed", "y", "a"): found}, layers(a=observed_layer())
    )
    spread = RAMP.std(ddof=1) / math.sqrt(12)
    for variable, low, high, slopes in (("x", 0.75, -0.25, (1.5, 2)), ("y", 2.35, 1.85, (2, 2))):
        row = rows["observed", variable, "a"]
        assert row["low_difference_nats"] == pytest.approx(low)
        assert row["high_difference_nats"] == pytest.approx(high)
        # Of the slopes 2 − 0.5 and 2 − 4; with the errors added they would be 2.5 and 6 or more.
        assert row["low_difference_stderr"] == pytest.approx(slopes[0] * spread)
        assert row["high_difference_stderr"] == pytest.approx(slopes[1] * spread)
        assert row["reference_low_stderr"] == row["reference_high_stderr"] == 0.02
    estimates = {("observed", variable, "a"): found for variable in "xy"}
    rows, *_ = measure_with(estimates, layers(a=observed_layer(high=False)))
    for variable, name in (("x", "high"), ("y", "low")):
        row = rows["observed", variable, "a"]
        for column in ("reference_{}_nats", "reference_{}_stderr", "{}_difference_nats"):
            assert row[column.format(name)] is None
        assert row["reference_nats"] is not None


def test_measure_noise_level_is_that_of_the_test_samples(measure_with):
    estimates = {("observed", "x", "a"): estimate_of(), ("observed", "y", "a"): estimate_of()}
    for config, level in (
        (PlaneConfig(), PlaneConfig().noise_level(12)),
        (PlaneConfig(noise="unit", noise_std=0.3), 0.3),
        (PlaneConfig(noise="absolute", noise_std=0.3), None),
    ):
        rows, *_ = measure_with(estimates, layers(a=observed_layer()), config=config)
        assert {row["noise_level"] for row in rows.values()} == {level}
        assert {row["noise_std"] for row in rows.values()} == {2.0}


def test_measure_values_of_the_literature_have_columns_where_asked_for(measure_with):
    estimates = {("observed", "x", "a"): estimate_of(), ("observed", "y", "a"): estimate_of()}
    compared = {"bins": (5.0, 0.7), "kde": (math.inf, 0.6)}
    rows, *_ = measure_with(estimates, layers(a=observed_layer(compared=compared)))
    x, y = rows.values()
    assert (x["bins_nats"], x["kde_nats"]) == (5.0, None)
    assert (y["bins_nats"], y["kde_nats"]) == (0.7, 0.6)


def test_measure_lost_axes_are_a_warning_for_x(measure_with):
    estimates = {("observed", "x", "a"): estimate_of(), ("observed", "y", "a"): estimate_of()}
    rows, *_ = measure_with(estimates, layers(a=observed_layer(lost=0.2)))
    x, y = (row["warnings"] for row in rows.values())
    lost = "The 3 principal axes that the network sees may leave out up to 0.20 nats of I(X;T)."
    assert (x, y) == (["about 1.0", lost], ["about 1.0"])


def test_measure_constant_layer_is_exactly_zero(measure_with):
    influence = RAMP[None]
    estimates = {
        ("observed", "x", "a"): estimate_of(1.0, influence=influence),
        ("observed", "x", "b"): estimate_of(-0.03, converged=False, influence=influence),
        ("observed", "y", "a"): estimate_of(0.5, influence=influence),
        ("observed", "y", "b"): estimate_of(0.04, influence=2 * influence),
    }
    constant = observed_layer(noise_std=0, lost=0.0)
    rows, result, _ = measure_with(estimates, layers(a=observed_layer(), b=constant))
    for variable in "xy":
        row, value = (
            rows["observed", variable, "b"],
            result.values[f"{variable};b observed of seed 0"],
        )
        names = ("mi_nats", "stderr", "own_nats", "train_nats", "noise_std")
        assert [row[name] for name in names] == [0.0] * 5
        assert (row["converged"], row["warnings"]) == (True, [NO_VARIANCE])
        assert value.nats == 0
        assert not value.influence.any()
        assert row["low_difference_nats"] == -row["reference_low_nats"]
        # The fall from the layer before is to that value, not to what a network found in noise.
        earlier = rows["observed", variable, "a"]["mi_nats"]
        assert row["drop_nats"] == row["own_drop_nats"] == earlier
        spread = RAMP.std(ddof=1) / math.sqrt(12)
        assert row["drop_stderr"] == row["own_drop_stderr"] == pytest.approx(spread)


def test_measure_change_is_paired_with_the_value_before(measure_with):
    estimates = {
        ("deterministic", "y", "a"): estimate_of(1.0, influence=RAMP[None]),
        ("deterministic", "y", "b"): estimate_of(2.0, influence=3 * RAMP[None]),
        ("deterministic", "y", "c"): estimate_of(0.5),
    }
    before = {
        "y;a deterministic of seed 0": Value(0.75, 5 * RAMP[None]),
        "y;b deterministic of seed 0": Value(math.nan, RAMP[None]),
    }
    rows, result, _ = measure_with(
        estimates, layers("a", "b", "c"), {"y": LABELS}, before=before, init=dict.fromkeys(
            [f"y;{layer} deterministic of seed 0" for layer in "abc"]
        )
    )  # fmt: skip
    first, second, third = rows.values()
    # That of b's network, which a takes over.
    assert (first["network"], first["change_nats"]) == ("b", 1.25)
    assert first["change_stderr"] == pytest.approx(2 * RAMP.std(ddof=1) / math.sqrt(12))
    assert second["change_nats"] is None
    assert third["change_nats"] is third["change_stderr"] is None
    assert all(row["warm_start"] for row in rows.values())
    # What the next round is given is what this one reports.
    np.testing.assert_array_equal(
        result.values["y;a deterministic of seed 0"].influence[0], 3 * RAMP
    )


def test_measure_rows_hold_the_chosen_network_and_the_own_one(measure_with):
    influences = [np.linspace(0, end, 12)[None] for end in (1.0, 2.0, 0.5)]
    estimates = {
        ("deterministic", "y", "a"): estimate_of(3.0, 2.05, steps=300, influence=influences[0]),
        ("deterministic", "y", "b"): estimate_of(2.0, 2.0, influence=influences[1]),
        ("deterministic", "y", "c"): estimate_of(1.0, 1.0, influence=influences[2]),
    }
    rows, *_ = measure_with(estimates, layers("a", "b", "c"), {"y": LABELS})
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
    # Without sharing each layer keeps its own.
    alone = PlaneConfig(share_networks=False)
    rows, *_ = measure_with(estimates, layers("a", "b", "c"), {"y": LABELS}, alone)
    assert [row["network"] for row in rows.values()] == ["a", "b", "c"]
    assert [row["drop_nats"] for row in rows.values()] == [None, 1.0, 1.0]


def test_measure_own_network_not_converged_is_reported_where_not_used(measure_with):
    estimates = {
        ("deterministic", "y", "a"): estimate_of(
            0.5, converged=False, warnings=("Not converged.",)
        ),
        ("deterministic", "y", "b"): estimate_of(1.0, warnings=()),
    }
    first, second = measure_with(estimates, layers("a", "b"), {"y": LABELS})[0].values()
    assert first["converged"] is False
    assert first["warnings"] == ["The layer's own network, not used: Not converged."]
    assert second["converged"] is True


def test_measure_diverged_values_are_null(measure_with):
    estimates = {
        ("deterministic", "y", "a"): estimate_of(0.5),
        ("deterministic", "y", "b"): estimate_of(math.nan),
    }
    first, second = measure_with(estimates, layers("a", "b"), {"y": LABELS})[0].values()
    assert (first["mi_nats"], second["mi_nats"]) == (0.5, None)
    assert second["drop_nats"] is None


def test_measure_several_seeds_use_their_own_estimates(measure_with):
    estimates = {
        ("deterministic", "y", "a"): {3: estimate_of(0.0), 4: estimate_of(2.0)},
        ("deterministic", "y", "b"): {3: estimate_of(1.0), 4: estimate_of(3.0)},
    }
    of_seeds = {seed: layers("a", "b") for seed in (3, 4)}
    result = measure_with(estimates, of_seeds, {"y": LABELS})[1]
    assert [(row["seed"], row["own_nats"]) for row in result.rows] == [
        *((3, 0.0), (3, 1.0)),
        *((4, 2.0), (4, 3.0)),
    ]
    assert [row["drop_nats"] for row in result.rows] == [None, 0.0, None, 0.0]  # not of seed 3


def test_paired_drop_error_is_that_of_paired_samples():
    rng = np.random.default_rng(2)
    luck, noise = rng.normal(size=(2, 4, 100))
    noise += np.arange(4)[:, None]  # a constant of each fold's T counts for nothing
    earlier, later = estimate_of(1.0, influence=luck), estimate_of(0.8, influence=luck + noise / 10)
    drop, stderr = paired_drop(earlier, later)
    assert drop == pytest.approx(0.2)
    # The luck of the samples is in both values: it is not in the error of their difference.
    assert stderr == pytest.approx(0.1 / math.sqrt(400), rel=0.1)
