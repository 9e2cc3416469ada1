"""Examples and recipes, each run as it is, against what is known of its data."""

import importlib.util
import math
import runpy

import jax
import numpy as np
import pytest
from conftest import EXPERIMENTS

pytestmark = pytest.mark.usefixtures("compile_as_users_do")


def run(path):
    """The names of a script, run as a user runs it."""
    with jax.numpy_rank_promotion("allow"):
        return runpy.run_path(str(EXPERIMENTS / path))


def rows_of(plane, variable, layer):
    rows = [row for row in plane.records if (row["variable"], row["layer"]) == (variable, layer)]
    return sorted(rows, key=lambda row: row["epoch"])


def assert_learns(plane, layer, entropy):
    """I(Y;T) of a layer grows by more than its errors, and stays below H(Y) and its bracket."""
    first, last = rows_of(plane, "y", layer)
    assert last["mi_nats"] - first["mi_nats"] > 2 * math.hypot(last["stderr"], first["stderr"])
    assert last["mi_nats"] < entropy
    for row in plane.records:
        # Test samples are some hundred.
        assert row["mi_nats"] < row["reference_high_nats"] + 4 * row["stderr"] + 0.01


@pytest.mark.parametrize(("name", "classes"), [("nnx", 3), ("transformer", 6)])
def test_classifiers_gain_information_on_labels(name, classes, capsys):
    plane = run(f"examples/{name}.py")["plane"]
    assert_learns(plane, "logits", math.log(classes))
    assert "I(Y;·)" in capsys.readouterr().out


def test_regression_agrees_with_its_closed_form(capsys):
    names = run("examples/regression.py")
    plane, x, y = (names[name] for name in ("plane", "x", "y"))
    layers = {name: np.asarray(of) for name, of in names["model"].apply(names["params"], x).items()}
    assert plane.description["class_entropy_nats"] is None
    for layer in ("hidden", "output"):
        row = rows_of(plane, "y", layer)[-1]
        # Gaussian: I = −½ ln(1 − R²), of the regression of y on the layer with its noise.
        covariance = np.cov(layers[layer].T).reshape(layers[layer].shape[1], -1)
        covariance = covariance + row["noise_std"] ** 2 * np.eye(len(covariance))
        with_y = np.cov(layers[layer].T, y.T)[:-1, -1]
        explained = with_y @ np.linalg.solve(covariance, with_y) / y.var(ddof=1)
        assert row["mi_nats"] == pytest.approx(
            -0.5 * math.log(1 - explained), abs=4 * row["stderr"] + 0.02
        )
        assert row["reference_high_nats"] is None
    first, last = rows_of(plane, "y", "output")
    assert last["mi_nats"] > first["mi_nats"] + 2 * last["stderr"]


@pytest.mark.parametrize(("name", "package"), [("pytorch", "torch"), ("keras", "keras")])
def test_recipes_learn_three_classes(name, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install {package}")
    layer = {"pytorch": "2", "keras": "logits"}[name]
    assert_learns(run(f"recipes/{name}_model.py")["plane"], layer, math.log(3))
