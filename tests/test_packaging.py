"""What is said of the package in several places is the same."""

import importlib
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_versions_agree():
    version = PROJECT["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert next(line for line in changes.splitlines() if line.startswith("## ")) == f"## {version}"


def test_entry_point_is_the_command_line():
    module, function = PROJECT["scripts"]["mine_jax"].split(":")
    assert callable(getattr(importlib.import_module(module), function))
