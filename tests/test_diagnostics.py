"""Records -> findings, on rows whose findings are known."""

import json
import math

import pytest

from mine_jax import diagnostics

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


def found(*rows):
    result = diagnostics.findings(rows, LAYERS, H_Y)
    json.dumps(result, allow_nan=False)  # what findings.json needs
    return result, " ".join(result["sentences"])


@pytest.mark.parametrize(
    ("drop", "held"), [(0.5, True), (0.0, True), (-0.019, True), (-0.021, False)]
)
def test_the_inequality_is_judged_by_the_error_of_the_difference(drop, held):
    result, text = found(row("a", "x", 3.0), row("b", "x", 3.0 - drop, drop, 0.01))
    (test,) = result["inequality"]
    assert test["held"] is held
    assert test["standard_errors"] == pytest.approx(drop / 0.01)
    assert (test["earlier"], test["later"], test["variable"]) == ("a", "b", "x")
    assert ("held in 1 of 1" in text) is held
    assert ("broken" in text) is not held


def test_a_break_names_layers_size_and_errors():
    _, text = found(row("a", "y", 1.0), row("b", "y", 1.5, -0.5, 0.05))
    assert "a → b 1 times, at most by 0.50 nats, 10 standard errors" in text


def test_equal_scores_without_spread_hold():
    result, _ = found(row("a", "x", 0.0), row("b", "x", 0.0, 0.0, 0.0))
    assert result["inequality"][0]["held"] is True


def test_ceiling_convergence_and_range_are_listed():
    result, text = found(
        row("a", "x", 7.3),
        row("b", "x", 7.1, 0.2, 0.1),
        row("a", "y", H_Y + 0.03, converged=False),
        row("b", "y", H_Y + 0.05, -0.02, 0.1),
    )
    assert [r["layer"] for r in result["at_ceiling"]] == ["a"]
    assert [(r["layer"], r["variable"]) for r in result["not_converged"]] == [("a", "y")]
    assert [(r["layer"], r["variable"]) for r in result["out_of_range"]] == [("b", "y")]
    assert "I(X;a) at epoch 4" in text
    assert "Every I(Y;L) lies within" not in text


def test_a_negative_value_is_out_of_range_for_both_variables():
    result, _ = found(row("a", "x", -0.05), row("a", "y", -0.03))
    assert [r["variable"] for r in result["out_of_range"]] == ["x"]


def test_clean_records_say_so():
    _, text = found(row("a", "y", 2.2), row("b", "y", 2.1, 0.1, 0.01))
    assert "Every I(Y;L) lies within [0, H(Y) = 2.303 nats]" in text
    assert "deterministic" in text


def test_values_that_are_not_finite_are_listed_and_not_judged():
    result, text = found(row("a", "x", None, stderr=None), row("b", "x", 2.0))
    assert [r["layer"] for r in result["not_finite"]] == ["a"]
    assert result["inequality"] == []
    assert "1 of 2 values not finite" in text
