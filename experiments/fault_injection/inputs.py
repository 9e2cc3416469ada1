"""Bad and unusual samples: the value beside the right one, or the exception; and the long fuzz."""

import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mine_jax import lower_bound
from mine_jax.mine import MineConfig

from .table import Table

FUZZ = "tests/estimate/test_fuzz.py"
N, RHO = 1000, 0.8
CONFIG = MineConfig(network="separable", hidden=16, features=8, max_steps=200, cross_fit=False)
STDERRS = 4.0  # by which a value may differ from that of plain arrays, where it is of other numbers
MAX_MESSAGE = 110  # characters of an exception that are shown
# "same": the same numbers, or others in the same order, whose ranks the network sees.
SAME, NEAR, ZERO, REFUSED, CEILING = "same", "near", "zero", "refused", "ceiling"


def measure(folder: Path, times: int | None) -> Table:
    """Give `lower_bound` each of a list of samples, and run the fuzz with its long profile.

    Args:
      folder: for the report of the fuzz.
      times: has no effect: the profile of the fuzz says how many examples there are.
    """
    del times
    x, z = _samples()
    plain = lower_bound(x, z, config=CONFIG)
    rows, failures = [], []
    for name, wanted, other_x, other_z in _cases(x, z):
        came_back, problem = _outcome(other_x, other_z, wanted, plain)
        rows.append((name, "1", came_back, problem or "nothing"))
        failures += [f"{name}: {problem}"] if problem else []
        print(rows[-1], flush=True)
    for row, problem in _fuzz(folder):
        rows.append(row)
        failures += [f"{row[0]}: {problem}"] if problem else []
    truth = -math.log(1 - RHO**2) / 2
    return Table(
        "Bad input",
        ("fault", "times", "came back", "lost"),
        tuple(rows),
        f"`lower_bound` of {N:,} Gaussian pairs of {truth:.3f} nats, of which plain arrays of 64 "
        f"bits give {plain.nats:.4f} ± {plain.stderr:.4f}; each line changes x, z or both.",
        tuple(failures),
    )


def _samples() -> tuple[np.ndarray, np.ndarray]:
    x, noise = np.random.default_rng(0).normal(size=(2, N))
    return x, RHO * x + math.sqrt(1 - RHO**2) * noise


def _put(values: np.ndarray, value: Any) -> np.ndarray:
    changed = values.astype(object) if value is None else values.copy()
    changed[17] = value
    return changed


def _cases(x: np.ndarray, z: np.ndarray) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield names, what is right, and samples."""
    yield "x·10⁶", SAME, x * 1e6, z
    yield "x + 10⁶", SAME, x + 1e6, z
    yield "x·10²⁰⁰, z·10⁻²⁰⁰", SAME, x * 1e200, z * 1e-200
    yield "exp(5 x), exp(5 z)", SAME, np.exp(5 * x), np.exp(5 * z)
    yield "one x of 10²⁰⁰", NEAR, _put(x, 1e200), z
    yield "one x of 10⁹", NEAR, _put(x, 1e9), z
    for kind in ("float32", "longdouble", "float16", "bfloat16"):
        dtype = jnp.bfloat16 if kind == "bfloat16" else kind
        yield kind, NEAR, x.astype(dtype), z.astype(dtype)
    yield "bfloat16 of JAX", NEAR, jnp.asarray(x, jnp.bfloat16), jnp.asarray(z, jnp.bfloat16)
    for bits in (8, 16, 32, 64):
        yield f"int{bits}", NEAR, (x * 25).astype(f"int{bits}"), z
        yield f"uint{bits}", NEAR, (x * 25 + 120).astype(f"uint{bits}"), z
    yield "big-endian", SAME, x.astype(">f8"), z.astype(">f8")
    yield "not contiguous", SAME, np.repeat(x, 2)[::2], z[::-1].copy()[::-1]
    frozen = x.copy()
    frozen.setflags(write=False)
    yield "read-only", SAME, frozen, z
    yield "objects that are numbers", SAME, x.astype(object), z.tolist()
    yield "masked array without a mask", SAME, np.ma.array(x), z
    yield "z = x", CEILING, x, x
    yield "constant x", ZERO, np.ones(N), z
    yield "both constant", ZERO, np.zeros(N), np.full(N, 1e200)
    yield "NaN", REFUSED, _put(x, np.nan), z
    yield "infinity", REFUSED, x, _put(z, -np.inf)
    yield "None among objects", REFUSED, _put(x, None), z
    yield "masked values", REFUSED, np.ma.masked_greater(x, 2), z
    yield "list of masked rows", REFUSED, list(np.ma.masked_greater(x[:, None], 2)), z
    yield "other lengths", REFUSED, x, z[:-1]
    yield "five samples", REFUSED, x[:5], z[:5]
    yield "no samples", REFUSED, x[:0], z[:0]
    yield "no columns", REFUSED, x[:, None][:, :0], z
    yield "complex numbers", REFUSED, x + 1j, z
    yield "int64 beyond 2⁵³", REFUSED, (x * 2**59).astype(np.int64), z
    yield "digits beyond float64", REFUSED, 1 + x.astype(np.longdouble) * np.longdouble(1e-18), z
    yield "dates", REFUSED, np.arange(N).astype("datetime64[s]"), z
    yield "rows of unequal length", REFUSED, [[1.0], [1.0, 2.0]] * (N // 2), z
    yield "no array", REFUSED, None, z
    yield "mapping for x", REFUSED, {"x": x}, z
    yield "clashing mapping", REFUSED, x, {"z": z, 1: z}


def _outcome(x: Any, z: Any, wanted: str, plain: Any) -> tuple[str, str]:
    """Return what came back, and what is wrong with it; empty if nothing is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            estimate = lower_bound(x, z, config=CONFIG)
    except (TypeError, ValueError) as error:
        text = f"{type(error).__name__}: {error}"
        shown = text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
        return shown, "" if wanted == REFUSED else "it was refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[
            :MAX_MESSAGE
        ], "an exception that explains nothing"
    distance = abs(estimate.nats - plain.nats)
    right = {
        SAME: distance <= 1e-3,  # other numbers of few digits may change ties
        NEAR: distance <= STDERRS * plain.stderr,
        ZERO: estimate.nats == 0,
        CEILING: estimate.ceiling_nats - 0.1 < estimate.nats <= estimate.ceiling_nats,
        REFUSED: False,
    }[wanted]
    return f"{estimate.nats:.4f} ± {estimate.stderr:.4f}", "" if right else f"{wanted} was right"


def _fuzz(folder: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Run the fuzz; yield its rows, and what went wrong."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", FUZZ, "--hypothesis-profile=long"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [*command, "--hypothesis-show-statistics", "-k", "prepared_as or layout"],
        capture_output=True, text=True, check=False, cwd=root, env=environment,
    )  # fmt: skip
    (folder / "fuzz.txt").write_text(done.stdout + done.stderr)
    tests = re.split(rf"^{FUZZ}::", done.stdout, flags=re.MULTILINE)[1:]
    counts = [
        (test.split(":")[0], *map(int, found.groups()))
        for test in tests
        if (found := re.search(r"generate phase.*?(\d+) passing, (\d+) failing", test, re.DOTALL))
    ]
    for name, passed, failed in counts:
        wrong = f"{failed} failing examples, see fuzz.txt" if failed else ""
        came_back = "as it should be: a value, or a reason"
        text = name.removeprefix("test_").replace("_", " ")
        yield (text, f"{passed + failed:,}", came_back, wrong or "nothing"), wrong
    if done.returncode or len(counts) != 2:
        yield ("fuzz", "1", "no report", "see fuzz.txt"), f"pytest ended with {done.returncode}"
