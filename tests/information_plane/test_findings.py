"""Findings on records whose findings are known."""

import json
import math

import pytest

from mine_jax.information_plane import findings

LAYERS = ["a", "b"]
H_Y = math.log(10)


def row(layer, variable, nats, drop=None, drop_stderr=None, **changes):
    return {
        "seed": 0,
        "epoch": 4,
        "layer": layer,
        "variable": variable,
        "mi_nats": nats,
        "stderr": 0.02,
        "ceiling_nats": 8.0,
        "converged": True,
        "drop_nats": drop,
        "drop_stderr": drop_stderr,
    } | changes


def noisy(layer, variable, nats, reference, drop=None, drop_stderr=None, **changes):
    noise = {"noise_std": 0.5, "reference_nats": reference, "reference_stderr": 0.0}
    return row(layer, variable, nats, drop, drop_stderr, **{**noise, "network": layer, **changes})


def found(*rows):
    result = findings.findings(rows, LAYERS, H_Y)
    json.dumps(result, allow_nan=False)  # what findings.json needs
    return result, " ".join(result["sentences"])


@pytest.mark.parametrize(
    ("drop", "held"), [(0.5, True), (0.0, True), (-0.019, True), (-0.021, False)]
)
def test_findings_compare_a_drop_with_its_standard_error(drop, held):
    result, text = found(row("a", "x", 3.0), row("b", "x", 3.0 - drop, drop, 0.01))
    (test,) = result["inequality"]
    assert test["held"] is held
    assert test["standard_errors"] == pytest.approx(drop / 0.01)
    assert (test["earlier"], test["later"], test["variable"]) == ("a", "b", "x")
    assert ("held in 1 of 1" in text) is held
    assert ("broken" in text) is not held


def test_findings_of_a_broken_inequality_name_layers_and_size():
    _, text = found(row("a", "y", 1.0), row("b", "y", 1.5, -0.5, 0.05))
    assert "a → b 1 times, by at most 0.50 nats" in text


def test_findings_of_equal_values_without_error_hold():
    result, _ = found(row("a", "x", 0.0), row("b", "x", 0.0, 0.0, 0.0))
    assert result["inequality"][0]["held"] is True


def test_findings_list_ceiling_convergence_and_range():
    result, text = found(
        row("a", "x", 7.3),
        row("b", "x", 6.8, 0.2, 0.1),
        row("a", "y", H_Y + 0.03, converged=False),
        row("b", "y", H_Y + 0.05, -0.02, 0.1),
    )
    assert [r["layer"] for r in result["at_ceiling"]] == ["a"]
    assert [(r["layer"], r["variable"]) for r in result["not_converged"]] == [("a", "y")]
    assert [(r["layer"], r["variable"]) for r in result["out_of_range"]] == [("b", "y")]
    assert "I(X;a) at epoch 4" in text
    assert "Every I(Y;L) lies within" not in text


def test_findings_take_the_ceiling_from_a_warning():
    near = "Near the ceiling of 8.00 nats, the largest value that 2980 test samples can support."
    result, _ = found(row("a", "x", 6.5, warnings=[near]), row("b", "x", 6.4, 0.1, 0.1))
    assert [r["layer"] for r in result["at_ceiling"]] == ["a"]


def test_findings_of_negative_values_are_out_of_range():
    result, _ = found(row("a", "x", -0.05), row("a", "y", -0.03))
    assert [r["variable"] for r in result["out_of_range"]] == ["x"]


def test_findings_of_clean_records_say_so():
    _, text = found(row("a", "y", 2.2), row("b", "y", 2.1, 0.1, 0.01))
    assert "Every I(Y;L) lies within [0, H(Y) = 2.303 nats]" in text
    assert "deterministic" in text


def test_findings_of_missing_values_list_them():
    result, text = found(row("a", "x", None, stderr=None), row("b", "x", 2.0))
    assert [r["layer"] for r in result["not_finite"]] == ["a"]
    assert result["inequality"] == []
    assert "1 of 2 values are not finite" in text


def test_findings_without_noise_state_the_theorem():
    result, text = found(row("a", "y", 2.2), row("b", "y", 2.1, 0.1, 0.01, noise_std=0.0))
    assert result["inequality_is_theorem"] is True
    assert "a theorem for the true values" in text
    assert "reference" not in text
    assert result["above_reference"] == result["below_reference"] == []


def test_findings_lead_with_own_networks():
    own = {"own_drop_nats": -0.2, "own_drop_stderr": 0.02}
    result, text = found(
        row("a", "y", 2.1, network="b", own_nats=1.9),
        row("b", "y", 2.1, 0.0, 0.0, network="b", own_nats=2.1, **own),
        row("a", "x", 3.0, network="a", own_nats=3.0),
        row("b", "x", 2.0, 1.0, 0.1, network="b", own_nats=2.0),
    )
    assert result["from_later_network"] == [
        {"seed": 0, "epoch": 4, "layer": "a", "variable": "y"}
        | {"network": "b", "mi_nats": 2.1, "own_nats": 1.9}
    ]
    assert "1 of 4 values come from a later layer's statistics network" in text
    assert [test["same_network"] for test in result["inequality"]] == [True, False]
    assert [test["own_held"] for test in result["inequality"]] == [False, True]
    by_own = "With each layer's own network the data-processing inequality of I(Y;L) held in 0 of 1"
    assert f"{by_own} tests and was broken in the others (a → b 1 times, by at most 0.20" in text
    reported = "With values taken from later networks it held in 1 of 1 tests, 1 of them equal by"
    assert text.index(by_own) < text.index(reported)


@pytest.mark.parametrize(("own_nats", "held"), [(3.055, True), (3.058, False)])
def test_findings_without_own_drops_compare_own_values(own_nats, held):
    result, _ = found(
        row("a", "x", 3.0, own_nats=3.0), row("b", "x", 3.0, 0.0, 0.01, own_nats=own_nats)
    )
    (test,) = result["inequality"]
    assert test["own_held"] is held
    assert test["own_stderr"] == pytest.approx(0.02 * math.sqrt(2))


def test_findings_with_noise_state_no_theorem():
    result, text = found(
        noisy("a", "x", 1.0, 1.0),
        noisy("b", "x", 1.5, 1.5, -0.5, 0.01),
        noisy("a", "y", 1.0, 1.0),
        noisy("b", "y", 1.2, 0.9, -0.2, 0.01),
    )
    assert result["inequality_is_theorem"] is False
    assert "is not a theorem for the observed layers" in text
    assert "deterministic" not in text
    assert "held in" not in text
    assert "broken" not in text
    assert [test["reference_drop_nats"] for test in result["inequality"]] == pytest.approx(
        [-0.5, 0.1]
    )
    for symbol, rise in (("X", 1), ("Y", 0)):
        sentence = f"I({symbol};T) did not rise with depth in 0 of 1 tests; where they rose, "
        assert f"{sentence}the references rise too in {rise} of 1." in text
    assert "Every I(Y;T) lies within" in text


@pytest.mark.parametrize(
    ("nats", "stderr", "reference_stderr", "above"),
    [
        (1.06, 0.0, 0.0, True),
        (1.04, 0.0, 0.0, False),
        (1.12, 0.02, 0.0, True),
        (1.10, 0.02, 0.0, False),
        (1.16, 0.03, 0.04, False),  # 0.05 + 3 · 0.05
        (1.21, 0.03, 0.04, True),
    ],
)
def test_findings_of_values_above_the_reference(nats, stderr, reference_stderr, above):
    result, text = found(
        noisy("a", "x", nats, 1.0, stderr=stderr, reference_stderr=reference_stderr)
    )
    assert bool(result["above_reference"]) is above
    claim = "0.05 nats and 3 standard errors above"
    assert f"1 of 1 are more than {claim} their reference, which no lower" in text or not above
    assert f"None is more than {claim} its reference." in text or above
    if above:
        assert result["above_reference"][0]["reference_nats"] == 1.0
        assert "no lower bound can be: I(X;a) at epoch 4." in text


@pytest.mark.parametrize(
    ("nats", "reference", "below"),
    [(1.89, 2.0, True), (1.91, 2.0, False), (0.0, 0.03, False), (-0.01, 0.0, False)],
)
def test_findings_of_values_below_the_reference(nats, reference, below):
    result, text = found(noisy("a", "y", nats, reference))
    assert bool(result["below_reference"]) is below
    assert ("1 of 1 are more than 5% below their reference: I(Y;a)" in text) is below
    assert ("None is more than 5% below" in text) is not below


def test_findings_report_the_fraction_of_the_reference():
    result, text = found(
        noisy("a", "x", 5.0, 10.0),
        noisy("b", "x", 3.6, 4.0, 1.0, 0.1),
        noisy("a", "y", 1.0, 1.0),
        noisy("b", "y", None, 1.0, stderr=None),
    )
    assert "3 of 3 values have a reference; they reach 90% of it (median)" in text
    assert "(1 of these references are above the ceiling)" in text
    assert [r["layer"] for r in result["below_reference"]] == ["a", "b"]
    assert [r["variable"] for r in result["not_finite"]] == ["y"]
