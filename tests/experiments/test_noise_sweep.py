"""The noise sweep through its entry function, on a small data set."""

import json

import pytest
from conftest import load_experiment, set_flags

script = load_experiment("noise_sweep")
TINY = {
    **{"dataset": "mnist_5k", "epochs": 1, "probe_every": 1, "probe_size": 400, "max_steps": 10},
    **{"compilation_cache": ""},
}


def row(variable, layer, nats, stderr=0.01, level=0.2, epoch=0, high=9.0):
    of = {"variable": variable, "layer": layer, "mi_nats": nats, "stderr": stderr}
    sides = {"reference_low_nats": 0.5, "reference_high_nats": high}
    return of | sides | {"noise_level": level, "epoch": epoch, "warnings": []}


def test_order_of_layers_tells_clear_differences_from_chance():
    rows = [row("x", "a", 1.0), row("x", "b", 1.03), row("x", "c", 0.5)]
    assert script.order_of_layers(rows) == "b ≈ a > c"


def test_report_counts_orders_and_changes_that_all_levels_share():
    values = {
        **{(0.2, 0): (2.0, 1.0, 1.0), (0.2, 1): (2.5, 1.5, 2.0)},
        **{(0.3, 0): (1.0, 2.0, 1.0), (0.3, 1): (0.9, 0.5, 1.5)},
    }
    rows = [
        row(*place, nats, level=level, epoch=epoch)
        for (level, epoch), of_places in values.items()
        for place, nats in zip((("x", "a"), ("x", "b"), ("y", "a")), of_places, strict=True)
    ]
    rows[-1] |= {"reference_high_nats": None, "warnings": ["Near the ceiling"]}
    text = script.report(rows, [0.2, 0.3])
    # At epoch 0 a comes first with one level and b with the other.
    assert "In 3 of 4 rows no two levels" in text
    assert "| I(X;a) | +0.50 | −0.10 | differs |" in text
    assert "| I(Y;a) | +1.00 | +0.50 | rises |" in text
    assert "| 1 | 0.3 | 0.90 (0.50 to 9.00) | 0.50 (0.50 to 9.00) | 1.50* (0.50 to –) |" in text


@pytest.mark.parametrize(
    ("levels", "message"),
    [(["0.2"], "two or more"), (["0.2", "much"], "much"), (["0", "1"], "above 0")],
)
def test_wrong_levels_are_refused_before_a_folder_is_made(tmp_path, levels, message):
    folder = tmp_path / "run"
    with (
        set_flags(script, levels=levels, out_dir=str(folder), **TINY),
        pytest.raises(SystemExit, match=message),
    ):
        script.experiment()
    assert not folder.exists()


def test_sweep_measures_one_network_with_each_level(tmp_path, compile_fast):
    folder = tmp_path / "run"
    with set_flags(script, levels=["0.3", "0.6"], out_dir=str(folder), **TINY):
        script.experiment()
        with pytest.raises(SystemExit, match="already holds a run"):
            script.experiment()
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert [row["noise_level"] for row in rows] == [0.3] * 8 + [0.6] * 8 + [0.3] * 8 + [0.6] * 8
    by_level = {}
    for each in rows:
        if each["variable"] == "x":
            place = each["epoch"], each["layer"]
            by_level.setdefault(place, []).append(each["noise_std"])
    # The same activations: twice the level is twice the noise.
    for weak, strong in by_level.values():
        assert strong == pytest.approx(2 * weak)
    assert (folder / "noise_sweep.png").exists()
    assert "c = 0.6" in (folder / "noise_sweep.md").read_text()
