"""The benchmark: figures, ratios to another program, growth, and refusals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "experiments" / "benchmark.py")
OTHER = (
    "print('matrix product: 2 GFLOP/s'); print('LeNet-5: 0.5 steps/s of 8, 4 s an epoch');"
    "print('MINE: 0.25 rounds/s')"
)


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def evaluated(expression, *flags):
    """A value in the script's own terms; in a process of its own, whose flags meet no others."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'experiments')!r}); import json, benchmark; "
        f"benchmark.FLAGS(['benchmark', *{flags!r}]); print(json.dumps({expression}))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if ran.returncode:
        raise ValueError(ran.stderr)
    return json.loads(ran.stdout)


def test_it_measures_beside_another_program_and_writes_what_it_found(tmp_path):
    small = ["--lenet_batch=8", "--mine_batch=16", "--hidden=8", "--layer_dims=12,5"]
    ran = run(
        *(
            "--parts=product,lenet,round",
            "--repeats=2",
            "--steps=2",
            *small,
            f"--out_dir={tmp_path}",
        ),
        f'--against={sys.executable} -c "{OTHER}"',
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "benchmark.json").read_text())
    by_unit = {figure["unit"]: figure for figure in found["figures"]}
    assert {"GFLOP/s", "steps/s", "rounds/s", "GiB"} == set(by_unit)
    assert all(len(by_unit[unit]["values"]) == 2 for unit in ("GFLOP/s", "steps/s", "rounds/s"))
    assert found["against"]["figures"] == {
        "GFLOP/s": [2.0, 2.0],
        "steps/s": [0.5, 0.5],
        "rounds/s": [0.25, 0.25],
    }
    assert "MINE as published, 4 networks, batches of 16" in ran.stdout
    ratio = by_unit["steps/s"]["median"] / 0.5
    assert f"{ratio:.2f}" in (tmp_path / "benchmark.md").read_text()


def test_the_arithmetic_of_a_round_is_counted_once_for_joint_and_marginal():
    inputs = 4 * (784 + 10) + 2 * (4704 + 1600 + 120 + 10)
    wanted = 2 * 512 * (2 * inputs * 256 + 8 * 6 * (256 * 256 + 256)) / 1e9
    flags = "--layer_dims=4704,1600,120,10", "--mine_batch=512"
    gflop, lenet = evaluated(f"[benchmark.round_gflop(8, {inputs}), benchmark.LENET]", *flags)
    assert gflop == pytest.approx(wanted)
    assert 11.5 < wanted < 11.8
    assert lenet == 2 * 117_600 + 3 * (240_000 + 48_000 + 10_080 + 840)


def test_numbers_are_read_as_they_are_written():
    text = "a 1.23e+03 GFLOP/s, 1,234.5 steps/s and x7 rounds/s"
    command = f'{sys.executable} -c "print({text!r})"'
    found = evaluated(f"benchmark.printed({command!r})")
    assert found == {"GFLOP/s": 1230.0, "steps/s": 1234.5}


def test_a_power_is_that_of_the_larger_half():
    rows = [
        {"what": "step", "size": "n", "value": v, "milliseconds": 3 * v**2, "mebibytes": 5.0 * v}
        for v in (1, 10, 100)
    ]
    (line,) = evaluated(f"benchmark.slopes({rows})")
    assert line == ["step against n", "1 … 100", "3.00 … 30000.00", "2.00", "5.0 … 500.0", "1.00"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--parts=lenet,nothing", "--parts has nothing; there are product, lenet, round"),
        ("--repeats=0", "--repeats must be at least 1, got 0"),
        ("--layer_dims=12,x", "--layer_dims must be numbers of units, got 12,x"),
        ("--num_devices=99", "--num_devices=99, but there are 1"),
        ("--process_id=0", "this program runs in one process"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(flag, message, tmp_path):
    ran = run(flag, f"--out_dir={tmp_path / 'out'}", "--platform=cpu")
    assert ran.returncode == 1
    assert message in ran.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("raise SystemExit('boom')", r"failed: boom"),
        ("print('12 s')", r"printed no figure in GFLOP/s"),
    ],
)
def test_another_program_that_fails_or_prints_nothing_is_an_error(program, message):
    command = f'{sys.executable} -c "{program}"'
    with pytest.raises(ValueError, match=message):
        evaluated(f"benchmark.printed({command!r})")
