"""Calls of `lower_bound` from programs of others, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

from .table import Table

CALLS = 500  # of different shapes, in one process
LIMIT = 600  # seconds for each fault but the calls of many shapes
START = """
import asyncio, os, sys
from concurrent.futures import ThreadPoolExecutor
import jax, numpy as np
from mine_jax import lower_bound
from mine_jax.mine import MineConfig
config = MineConfig(network="separable", hidden=8, depth=1, features=4, batch_size=32,
                    check_every=10, max_steps=20, cross_fit=False)
rng = np.random.default_rng(0)
x = rng.normal(size=(400, 8))
def go(n=100, d=2, **more):
    return float(lower_bound(x[:n, :d], x[:n, :1] + 0.5 * x[:n, 7:], config=config, **more))
def refused(call):
    try:
        return f"not refused: {call()}"
    except RuntimeError as error:
        return "ok " + str(error)
def same(values, wanted):
    return "ok same value" if set(values) == set(wanted) else f"{values} in place of {wanted}"
"""
FAULTS = {
    "two threads, same shapes": """
alone = go()
with ThreadPoolExecutor(2) as pool:
    print(same(pool.map(lambda _: go(), range(2)), [alone]))""",
    "two threads, other shapes": """
alone = [go(d=1), go(d=2)]
with ThreadPoolExecutor(2) as pool:
    print(same(pool.map(lambda d: go(d=d), (1, 2)), alone))""",
    "jax.default_device": """
alone = go()
with jax.default_device(jax.devices()[0]):
    print(same([go()], [alone]))""",
    "jax.enable_x64": """
alone = go()
with jax.enable_x64(True):
    print(same([go()], [alone]))""",
    "jax.debug_nans": """
alone = go()
with jax.debug_nans(True):
    print(same([go()], [alone]))""",
    "a running event loop": """
async def call():
    return go(verbose=True)
print(same([asyncio.run(call())], [go()]))""",
    "inside jax.jit": "print(refused(lambda: jax.jit(lambda a: a + go())(1.0)))",
    "inside jax.vmap": "print(refused(lambda: jax.vmap(lambda a: a + go())(x)))",
    "inside jax.grad": "print(refused(lambda: jax.grad(lambda a: a + go())(1.0)))",
    "after os.fork": """
jax.devices()
child = os.fork()
if child == 0:
    print(refused(go), flush=True)
    os._exit(0)
os.waitpid(child, 0)""",
}
SHAPES = """
most = 0
for i in range(CALLS):
    columns = rng.normal(size=(60 + i % 4 * 100, 1 + i // 4))
    value = float(lower_bound(columns, columns[:, :1] + rng.normal(size=(len(columns), 1)),
                              config=config))
    assert np.isfinite(value)
    most = max(most, sum(1 for _ in open("/proc/self/maps")))
pages = int(open("/proc/self/statm").read().split()[1])
print(f"ok at most {most:,} memory mappings, {pages * os.sysconf('SC_PAGE_SIZE') >> 20:,} MiB")"""


def measure(folder: Path, times: int | None) -> Table:
    """Run each program, and many calls of different shapes in one process.

    Args:
      folder: not used; nothing is written.
      times: number of calls of different shapes; None for `CALLS`.
    """
    calls = CALLS if times is None else times
    programs = [(name, 1, code, LIMIT) for name, code in FAULTS.items()]
    if Path("/proc/self/maps").exists():
        code = SHAPES.replace("CALLS", str(calls))
        programs.append(("calls of different shapes", calls, code, LIMIT + 30 * calls))
    rows, failures = [], []
    for name, number, code, limit in programs:
        came_back = _run(START + code, limit)
        if not came_back.startswith("ok "):
            failures.append(f"{name}: {came_back}")
        lost = "nothing" if came_back.startswith("ok ") else "the call"
        rows.append((name, str(number), came_back.removeprefix("ok "), lost))
    columns = ("called", "times", "came back", "lost")
    return Table("Calls from other programs", columns, tuple(rows), "", tuple(failures))


def _run(code: str, limit: int) -> str:
    """Return the last line that a program prints, or how it ended."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return f"did not return within {limit} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return lines[-1] if lines else f"ended with exit status {done.returncode} and no word"
