"""New environments for parts that install packages: a clone of the last commit, a Python, pip."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BOUND = re.compile(r"([\w.-]+)>=([\d.]+)")
INSTALLED = """
import importlib.metadata, json, platform
found = importlib.metadata.distributions()
versions = {package.name.lower().replace("_", "-"): package.version for package in found}
print(json.dumps({"python": platform.python_version()} | versions))
"""


def lowest_versions(runtime_only: bool = False) -> dict[str, str]:
    """Return the lower bounds that requirements.txt and the extras of pyproject.toml declare.

    Args:
      runtime_only: without the extras.

    Returns:
      Version by name of the package, in small letters and with hyphens.
    """
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    if not runtime_only:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        lines += [line for extra in project["optional-dependencies"].values() for line in extra]
    bounds = [found for line in lines if (found := BOUND.fullmatch(line))]
    return {found[1].lower().replace("_", "-"): found[2] for found in bounds}


def python_of(version: str) -> str | None:
    """Return the path of a Python that is in PATH and starts.

    Args:
      version: such as "3.12".
    """
    path = shutil.which(f"python{version}")
    if path and subprocess.run([path, "-V"], capture_output=True, check=False).returncode == 0:
        return path
    return None


def create(folder: Path, python: str, *arguments: str) -> dict[str, str]:
    """Make folder/source, a clone of the last commit, and folder/venv, in which pip installs.

    Args:
      folder: is emptied.
      python: path of the Python.
      arguments: of `pip install`, which runs in folder/source.

    Returns:
      Versions of "python" and of all packages, by name in small letters and with hyphens.

    Raises:
      RuntimeError: if something cannot be cloned or installed, with the program's last words.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run(folder, "git", "clone", "--quiet", str(ROOT), "source")
    run(folder, python, "-m", "venv", "venv")
    source, own = folder / "source", str(folder / "venv/bin/python")
    run(source, own, "-m", "pip", "install", "--quiet", *arguments)
    return json.loads(run(source, own, "-c", INSTALLED))


def run(folder: Path, *command: str) -> str:
    """Run a program and return what it prints.

    Args:
      folder: where it runs.
      command: program and arguments.

    Raises:
      RuntimeError: if it ends with another status than 0, with its last words.
    """
    ended = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    if ended.returncode:
        words = " ".join((ended.stderr or ended.stdout).splitlines()[-3:])
        raise RuntimeError(f"{Path(command[0]).name} {' '.join(command[1:4])}: {words}")
    return ended.stdout


def environment() -> dict[str, str]:
    """Return the environment variables, without those that would let other packages in."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def today() -> str:
    """Return the date, as results pages show it."""
    return datetime.now(UTC).strftime("%Y-%m-%d")
