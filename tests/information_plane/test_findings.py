"""Findings on records whose findings are known."""

import json
import math

import pytest

from mine_jax.information_plane import findings

LAYERS = ["a", "b"]
H_Y = math.log(10)
KNOWN, NO_CHAIN = "Observed layers: ", "the observed layers are no Markov chain"
UNKNOWN, CHAIN = "Deterministic layers: ", "a theorem for the true values"


def row(layer, variable, nats, drop=None, drop_stderr=None, **changes):
    """A row of a deterministic layer, with the layer's own network."""
    return {
        "plane": "deterministic",
        "seed": 0,
        "epoch": 4,
        "layer": layer,
        "variable": variable,
        "mi_nats": nats,
        "stderr": 0.02,
        "ceiling_nats": 8.0,
        "network": layer,
        "own_nats": nats,
        "converged": True,
        "warnings": [],
        "drop_nats": drop,
        "drop_stderr": drop_stderr,
        "change_nats": None,
        "change_stderr": None,
    } | changes


def noisy(layer, variable, nats, low=None, high=None, errors=(0.01, 0.01), **changes):
    """A row of an observed layer, whose bracket is known without error."""
    bracket = {}
    for side, value, error in zip(("low", "high"), (low, high), errors, strict=True):
        known = value is not None
        bracket |= {f"reference_{side}_nats": value, f"reference_{side}_stderr": 0.0}
        bracket[f"{side}_difference_nats"] = nats - value if known else None
        bracket[f"{side}_difference_stderr"] = error if known else None
    return row(layer, variable, nats, **{"plane": "observed", **bracket, **changes})


def found(*rows):
    result = findings.findings(rows, LAYERS, H_Y)
    json.dumps(result, allow_nan=False)  # what findings.json needs
    return result, " ".join(result["sentences"])


def layers_of(rows):
    return [(r["plane"][0], r["layer"], r["variable"]) for r in rows]


# ---- Both planes ---------------------------------------------------------------------------------


def test_findings_of_one_plane_or_both():
    deterministic = row("a", "y", 2.2), row("b", "y", 2.1, 0.1, 0.01)
    drop = {"drop_nats": -0.3, "drop_stderr": 0.01}  # broken, were it tested
    observed = noisy("a", "y", 1.0, 1.0, 1.1), noisy("b", "y", 1.3, 1.3, 1.4, **drop)
    within = "lies within [0, H(Y) = 2.303 nats]"
    result, text = found(*deterministic)
    assert all(part in text for part in (UNKNOWN, CHAIN, f"Every I(Y;L) {within}"))
    assert not any(part in text for part in (KNOWN, NO_CHAIN, "I(Y;T)", "racket"))
    result, text = found(*observed)
    assert all(part in text for part in (KNOWN, NO_CHAIN, f"Every I(Y;T) {within}"))
    assert not any(part in text for part in (UNKNOWN, CHAIN, "I(Y;L)", "held in", "broken"))
    assert result["inequality"] == []
    result, text = found(*observed, *deterministic)
    assert all(part in text for part in (KNOWN, NO_CHAIN, UNKNOWN, CHAIN))
    assert f"Every I(Y;T) and I(Y;L) {within}" in text
    assert len(result["inequality"]) == 1
    assert len(result["moved_between_layers"]) == 2
    assert found()[0]["sentences"] == []


def test_findings_list_what_limits_the_values_of_both_planes():
    near = "Near the ceiling of 8.00 nats, the largest value that 2980 test samples can support."
    not_used = f"The layer's own network, not used: {near}"
    result, text = found(
        row("a", "x", 6.8, warnings=[not_used]),
        row("b", "x", 7.3, 0.2, 0.1),
        row("a", "y", H_Y + 0.03, converged=False),
        row("b", "y", H_Y + 0.05, -0.02, 0.1),
        noisy("a", "x", 6.5, warnings=[near], num_axes=64, lost_nats=0.06),
        noisy("b", "x", -0.05, num_axes=10, lost_nats=0.05),
        noisy("a", "y", -0.03),
        noisy("b", "y", None, stderr=None),
    )
    assert layers_of(result["at_ceiling"]) == [("d", "b", "x"), ("o", "a", "x")]
    assert layers_of(result["not_converged"]) == [("d", "a", "y")]
    assert layers_of(result["out_of_range"]) == [("d", "b", "y"), ("o", "b", "x")]
    assert layers_of(result["not_finite"]) == [("o", "b", "y")]
    assert layers_of(result["lost_axes"]) == [("o", "a", "x")]
    assert "2 of 8 values are less than a nat below the ceiling" in text
    assert "I(X;L) of b at epoch 4; I(X;T) of a at epoch 4." in text
    assert "1 of 8 values is not converged at the limit of steps: I(Y;L) of a at epoch 4." in text
    assert "1 of 8 values is not finite: I(Y;T) of b at epoch 4." in text
    assert "In 1 of 8 values the axes that the network does not see may hold more" in text
    assert "Every I(Y;T) lies within" in text
    assert "I(Y;L) lies within" not in text


def test_findings_count_what_moved_between_probes():
    def probes(plane, changes):
        rows = [row("a", "x", 2.0, plane=plane, epoch=0, seed=1)]
        for epoch, (change, stderr) in zip((2, 6, 9, 10), changes, strict=True):
            known = {"change_nats": change, "change_stderr": stderr}
            rows.append(row("a", "x", 2.0, plane=plane, epoch=epoch, seed=1, **known))
        return rows

    result, text = found(
        *probes("observed", [(0.31, 0.1), (-0.31, 0.1), (0.295, 0.1), (0.4, 0.1)]),
        *probes("deterministic", [(0.295, 0.1), (None, None), (0.0, 0.0), (0.1, 0.1)]),
    )
    place = {"plane": "observed", "seed": 1, "variable": "x", "layer": "a"}
    assert result["moved_between_epochs"] == [
        place | {"from_epoch": 0, "to_epoch": 2, "change_nats": 0.31, "stderr": 0.1},
        place | {"from_epoch": 2, "to_epoch": 6, "change_nats": -0.31, "stderr": 0.1},
        place | {"from_epoch": 9, "to_epoch": 10, "change_nats": 0.4, "stderr": 0.1},
    ]
    changed = "changed by more than 3 standard errors of the paired difference"
    assert f"I(X;T) {changed}: a in 3 of 4 (2 up, 1 down)." in text
    assert f"I(X;L) {changed}: a in 0 of 3." in text


def test_findings_count_what_differs_between_layers():
    def layers(plane, epoch, drop, stderr, network="a"):
        return (
            row("a", "y", 2.0, plane=plane, epoch=epoch, network=network),
            row("b", "y", 2.0 - drop, drop, stderr, plane=plane, epoch=epoch),
        )

    result, text = found(
        *layers("observed", 0, 0.31, 0.1),
        *layers("observed", 4, -0.295, 0.1),
        *layers("deterministic", 0, -0.4, 0.1),
        *layers("deterministic", 4, 0.5, 0.1, network="b"),
    )
    shared = {"seed": 0, "epoch": 0, "variable": "y", "earlier": "a", "later": "b", "stderr": 0.1}
    assert result["moved_between_layers"] == [
        shared | {"plane": "observed", "drop_nats": 0.31},
        shared | {"plane": "deterministic", "drop_nats": -0.4},
    ]
    differed = "differed by more than 3 standard errors of the paired difference"
    assert f"I(Y;T) {differed}: a → b in 1 of 2 (0 up, 1 down)." in text
    assert f"I(Y;L) {differed}: a → b in 1 of 1 (1 up, 0 down)." in text


# ---- Deterministic layers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drop", "stderr", "held"),
    [(0.5, 0.01, True), (0.0, 0.0, True), (-0.019, 0.01, True), (-0.021, 0.01, False)],
)
def test_findings_compare_a_drop_with_its_standard_error(drop, stderr, held):
    # Own values are unknown, so that the inequality is tested as reported.
    unknown = {"own_nats": None}
    result, text = found(
        row("a", "x", 3.0, **unknown), row("b", "x", 3.0 - drop, drop, stderr, **unknown)
    )
    (test,) = result["inequality"]
    assert test["held"] is held
    assert test["standard_errors"] == pytest.approx(drop / stderr if stderr else 0)
    assert (test["earlier"], test["later"], test["variable"]) == ("a", "b", "x")
    assert (test["own_drop_nats"], test["own_held"]) == (None, None)
    assert ("The data-processing inequality of I(X;L) held in 1 of 1 tests." in text) is held
    broken = "held in 0 of 1 tests and was broken in the others (a → b 1 times, by at most 0.02"
    assert (broken in text) is not held


def test_findings_test_no_drop_without_its_standard_error():
    rows = [row("a", "x", 3.0), row("b", "x", 3.5, drop=-0.5, drop_stderr=None)]
    result, text = found(*rows)
    assert not result["inequality"]
    assert "inequality of I(X;L) held" not in text


def test_findings_lead_with_own_networks_and_count_no_shared_one():
    own = {"own_drop_nats": -0.2, "own_drop_stderr": 0.02}
    result, text = found(
        row("a", "y", 2.1, network="b", own_nats=1.9),
        row("b", "y", 2.1, 0.0, 0.0, **own),
        row("a", "y", 2.0, epoch=8),
        row("b", "y", 1.9, 0.1, 0.02, epoch=8),
        row("a", "x", 3.0),
        row("b", "x", 2.0, 1.0, 0.1),
    )
    assert result["from_later_network"] == [
        {"plane": "deterministic", "seed": 0, "epoch": 4, "layer": "a", "variable": "y"}
        | {"network": "b", "mi_nats": 2.1, "own_nats": 1.9}
    ]
    assert [test["same_network"] for test in result["inequality"]] == [True, False, False]
    assert [test["held"] for test in result["inequality"]] == [None, True, True]
    assert [test["own_held"] for test in result["inequality"]] == [False, True, True]
    own_y = "With each layer's own network the data-processing inequality of I(Y;L) held in 1 of 2"
    assert f"{own_y} tests and was broken in the others (a → b 1 times, by at most 0.20" in text
    reported = "held in 1 of 1 tests; 1 more is equal by construction and no test."
    assert text.index(own_y) < text.index(reported)
    assert "inequality of I(X;L) held in 1 of 1 tests." in text
    assert "1 of 6 values of deterministic layers comes from a later layer's" in text


@pytest.mark.parametrize(("own_nats", "held"), [(3.055, True), (3.058, False)])
def test_findings_without_own_drops_compare_own_values(own_nats, held):
    result, _ = found(row("a", "x", 3.0), row("b", "x", 3.0, 0.0, 0.01, own_nats=own_nats))
    (test,) = result["inequality"]
    assert test["own_held"] is held
    assert test["own_stderr"] == pytest.approx(0.02 * math.sqrt(2))


# ---- Observed layers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "nats", "low", "stderr", "outside"),
    [
        ("x", 2.031, 1.0, 0.01, "above"),  # high is 2
        ("x", 2.029, 1.0, 0.01, None),
        ("x", 1.93, 2.0, 0.01, "below"),  # 3.5 %
        ("x", 1.95, 2.0, 0.01, None),  # 2.5 %
        ("x", 1.93, 2.0, 0.04, None),  # 1.75 standard errors
        ("y", 1.93, 2.0, 0.01, None),
        ("y", 1.91, 2.0, 0.01, "below"),  # 4.5 %
        ("y", -0.01, 0.0, 0.01, None),
        ("y", -0.03, -0.005, 0.01, "below"),
        ("y", -0.03, None, 0.01, None),  # a bracket without a low side
    ],
)
def test_findings_compare_an_estimate_with_its_bracket(variable, nats, low, stderr, outside):
    result, text = found(noisy("a", variable, nats, low, 2.0, (stderr, 0.01)))
    symbol = variable.upper()
    for side, claim in (
        ("above", "3 standard errors above the high side"),
        ("below", f"{'3%' if symbol == 'X' else '4%'} and 2 standard errors below the low side"),
    ):
        listed = result[f"{side}_bracket"]
        assert layers_of(listed) == [("o", "a", variable)] * (side == outside)
        one = f"1 of 1 estimates of I({symbol};T) is more than {claim} of the bracket: "
        assert (f"{one}I({symbol};T) of a at epoch 4." in text) is (side == outside)
        none = f"None of 1 estimates of I({symbol};T) is more than {claim} of its bracket."
        known = side == "above" or low is not None
        assert (none in text) is (known and side != outside)
    if outside:
        row = result[f"{outside}_bracket"][0]
        assert row["high_difference_nats"] == nats - 2.0
        assert row["reference_low_nats"] == low


def test_findings_say_how_wide_brackets_are_and_where_estimates_lie():
    _, text = found(
        noisy("a", "x", 1.99, 2.0, 2.1, epoch=0),
        noisy("a", "x", 4.04, 4.0, 4.2),
        noisy("b", "x", 0.95, 1.0, 1.6),
        noisy("a", "y", 2.0, 1.6, 1.7),
        noisy("b", "y", 0.002, 0.02, 0.03, reference_low_stderr=0.01),  # the low side may be 0
    )
    widths = "0.200 nats wide for I(X;T) (median of 3; at most 0.600) and 0.055 nats wide for I(Y;T"
    assert f"The brackets are {widths}" in text
    assert "the estimates of I(X;T) lie 0.5% below it (median of 3)" in text
    assert "the lowest lies 5.0% below it (b at epoch 4, difference -0.050 ± 0.010" in text
    assert "the estimates of I(Y;T) lie 25.0% above it (median of 1)" in text
