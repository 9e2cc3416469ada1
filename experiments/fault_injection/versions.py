"""The test suite with each Python, with the newest packages and the lowest that are declared.

Pythons are looked for in PATH. A run takes about 20 minutes on one core; what it gave is kept in
the folder as soon as it is known, and another start goes on with the runs that are missing. The
last commit is tested, in new environments.
"""

import json
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from . import environments
from .table import Table

RUNS = (("3.11", "lowest"), ("3.12", "newest"), ("3.13", "newest"), ("3.11", "newest"))


def measure(folder: Path, times: int | None) -> Table:
    """Run the test suite once with each Python and set of packages.

    Args:
      folder: for environments and results.
      times: not used; each is run once.
    """
    del times
    rows, failures = [], []
    for version, packages in RUNS:
        kept = folder / f"{version}-{packages}.json"
        try:
            if not kept.exists():
                kept.write_text(json.dumps(_result(folder, version, packages), indent=2) + "\n")
        except RuntimeError as error:
            rows.append((version, packages, "not run", "", "", "", ""))
            failures.append(f"Python {version}, {packages} packages, was not run: {error}")
            continue
        result = json.loads(kept.read_text())
        found = result["versions"]
        counts = [str(result[name]) for name in ("tests", "failed", "skipped")]
        named = ", ".join(f"{name} {found.get(name, 'missing')}" for name in result["direct"])
        rows.append((found["python"], packages, *counts, result["date"], named))
        failures += [f"Python {version}, {packages}: {test} fails" for test in result["failures"]]
    return Table(
        title="Versions of Python and of packages",
        columns=("Python", "packages", "tests", "failed", "skipped", "date", "versions"),
        rows=tuple(rows),
        note="The whole test suite once, in a new environment each. Lowest: the lower bounds of "
        "requirements.txt and of the extras; newest: what pip chooses.",
        failures=tuple(failures),
    )


def _result(folder: Path, version: str, packages: str) -> dict[str, Any]:
    """Install and test; RuntimeError if it cannot be installed or ends without a report."""
    if (python := environments.python_of(version)) is None:
        raise RuntimeError(f"there is no python{version} in PATH that starts")
    lowest = environments.lowest_versions()
    constraints = folder / "lowest.txt"
    constraints.write_text("".join(f"{name}=={bound}\n" for name, bound in lowest.items()))
    limits = ("-c", str(constraints)) if packages == "lowest" else ()
    work = folder / f"{version}-{packages}"
    versions = environments.create(work, python, "-r", "requirements.txt", "-e", ".[test]", *limits)
    report = work / "report.xml"
    # One worker: a test that ends the process is reported, and the others go on.
    # Warnings that other versions of packages give are no errors.
    options = ("-n", "1", "-W", "default", f"--junitxml={report}")
    command = [work / "venv/bin/python", "-m", "pytest", *options]
    with (work / "output.txt").open("w") as output:
        subprocess.run(
            command,
            cwd=work / "source",
            env=environments.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if not report.exists():
        raise RuntimeError(f"pytest wrote no report, see {output.name}")
    suite = ElementTree.parse(report).getroot().find("testsuite")
    failed = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return {
        "date": environments.today(),
        "commit": environments.run(work / "source", "git", "rev-parse", "HEAD").strip(),
        "tests": int(suite.get("tests")),
        "failed": len(failed),
        "skipped": int(suite.get("skipped")),
        "failures": failed,
        "direct": list(lowest),
        "versions": versions,
    }
