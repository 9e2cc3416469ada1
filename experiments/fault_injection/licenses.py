"""Licenses and known vulnerabilities of the packages that `pip install mine_jax` brings."""

import json
import re
import subprocess
import sys
from pathlib import Path

from . import environments
from .table import Table

# What a package says of its license: the expression, else classifiers, else a line of text.
DECLARED = """
import importlib.metadata, json
OSI = "License :: OSI Approved :: "
def declared(data):
    named = [text.removeprefix(OSI) for text in data.get_all("Classifier") or [] if OSI in text]
    line = (data.get("License") or "").strip().splitlines() or [""]
    return data.get("License-Expression") or "; ".join(named) or line[0] or "not declared"
found = importlib.metadata.distributions()
print(json.dumps({package.name.lower().replace("_", "-"): declared(package.metadata)
                  for package in found}))
"""
PERMISSIVE = re.compile(
    r"(Apache|(3-Clause )?BSD|0BSD|MIT|ISC|Zlib|CC0-1\.0|Unlicense|PSF|Python|HPND|Historical)\b"
)
TOOLS = ("python", "pip", "setuptools", "mine-jax")  # of the environment, and the project itself


def measure(folder: Path, times: int | None) -> Table:
    """List the packages with their licenses, and ask pip-audit for known vulnerabilities.

    Args:
      folder: for the environment.
      times: not used; it is read once.
    """
    del times
    work = folder / "runtime"
    versions = environments.create(work, sys.executable, "-r", "requirements.txt", ".")
    own = work / "venv/bin/python"
    licenses = json.loads(environments.run(work, str(own), "-c", DECLARED))
    direct = environments.lowest_versions(runtime_only=True)
    names = sorted(set(versions) - set(TOOLS))
    others = [f"{name} ({licenses[name]})" for name in names if not permissive(licenses[name])]
    known = _vulnerabilities(work, {name: versions[name] for name in names})
    return Table(
        title="Licenses and known vulnerabilities",
        columns=("package", "version", "needed", "license"),
        rows=tuple(
            (name, versions[name], "directly" if name in direct else "indirectly", licenses[name])
            for name in names
        ),
        note=f"Of requirements.txt on {environments.today()}, Python {versions['python']}. "
        f"Not permissive, as far as names tell: {', '.join(others) or 'none'}. pip-audit answered "
        f"for {len(known)} of {len(names)} packages.",
        failures=tuple(f"{name} {versions[name]} has {ids}" for name, ids in known.items() if ids),
    )


def permissive(license: str) -> bool:
    """Return whether all licenses of a package are permissive, as far as their names tell.

    Args:
      license: an SPDX expression, or names divided by semicolons.
    """
    parts = re.split(r"\bAND\b|;", license)
    return all(
        any(PERMISSIVE.match(choice.strip(" ()")) for choice in re.split(r"\bOR\b", part))
        for part in parts
    )


def _vulnerabilities(work: Path, versions: dict[str, str]) -> dict[str, str]:
    """Return identifiers of vulnerabilities, for those packages that the service answered for."""
    environments.run(work, sys.executable, "-m", "venv", "audit")
    python = str(work / "audit/bin/python")
    environments.run(work, python, "-m", "pip", "install", "--quiet", "pip-audit")
    listed = work / "packages.txt"
    listed.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
    command = [python, "-m", "pip_audit", "--no-deps", "--disable-pip", "-f", "json"]
    ended = subprocess.run(
        [*command, "-r", str(listed)],
        env=environments.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    # Status 1 is for packages that have some, and for a service that cannot be reached.
    found = json.loads(ended.stdout)["dependencies"] if ended.stdout.startswith("{") else []
    return {
        package["name"]: ", ".join(item["id"] for item in package["vulns"])
        for package in found
        if "vulns" in package  # it has "skip_reason" where the service has not answered
    }
