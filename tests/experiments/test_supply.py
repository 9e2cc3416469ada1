"""Bounds, licenses, and results of test runs, as the experiment on faults reads them."""

import importlib
import json
import tomllib

import pytest
from conftest import EXPERIMENTS
from packaging.requirements import Requirement

ROOT = EXPERIMENTS.parent


@pytest.fixture
def part(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return lambda name: importlib.import_module(f"fault_injection.{name}")


def test_every_dependency_has_a_lower_bound(part):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    lines += [line for extra in project["optional-dependencies"].values() for line in extra]
    declared = [Requirement(line) for line in lines if not line.startswith("#")]
    names = [found.name.lower().replace("_", "-") for found in declared if not found.extras]
    assert list(part("environments").lowest_versions()) == names


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("Apache-2.0 OR BSD-2-Clause", True),
        ("MIT OR AFL-2.1", True),
        ("3-Clause BSD License", True),
        ("Apache Software License; MIT License", True),
        ("MPL-2.0 AND MIT", False),
        ("GNU General Public License v3 (GPLv3)", False),
        ("not declared", False),
    ],
)
def test_permissive(part, license, expected):
    assert part("licenses").permissive(license) is expected


def test_kept_results_are_not_measured_again(part, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # there is no Python to run
    module = part("versions")
    counts = {"tests": 9, "failed": 1, "skipped": 2, "failures": ["a.test_b"]}
    about = {"date": "2000-01-01", "direct": ["jax"], "versions": {"python": "3.13.0", "jax": "1"}}
    (tmp_path / "3.13-newest.json").write_text(json.dumps(counts | about))
    table = module.measure(tmp_path, None)
    kept = ("3.13.0", "newest", "9", "1", "2", "2000-01-01", "jax 1")
    assert [row for row in table.rows if row[2] != "not run"] == [kept]
    assert "Python 3.13, newest: a.test_b fails" in table.failures
    assert len(table.failures) == len(module.RUNS)
