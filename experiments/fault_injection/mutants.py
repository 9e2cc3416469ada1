"""Errors in the source itself: small random changes of it, and whether its tests notice.

It needs cosmic-ray (`pip install cosmic-ray`) and an hour or two. A second run in the same folder
tries again only what was not noticed.
"""

import ast
import importlib.util
import itertools
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .mutants_equal import EQUAL
from .table import Table

ROOT = Path(__file__).parents[2]
ROOMS = ("mine", "estimate", "information_plane")
NOT_CHANGED = re.compile(r"__init__|figure_(panels|style|table)|figures|page|animation")

# Tests of modules that have no test file of their own name, or need more than that.
TESTS = {
    "mine/blocks": ("mine/evaluation", "mine/padding"),
    "mine/checks": ("mine/evaluation", "mine/training", "mine/fitting"),
    "mine/chunks": ("mine/training", "mine/fitting"),
    "mine/padding": ("mine/padding", "mine/statistics_network", "mine/training"),
    "estimate/estimation": ("estimate/splitting", "estimate/competition", "estimate/lower_bound"),
    "estimate/competition": ("estimate/competition", "estimate/lower_bound"),
    "estimate/gaussian_start": ("estimate/gaussian_start", "estimate/padding"),
    "estimate/pairs": ("estimate/result", "estimate/preparation", "estimate/competition"),
    "estimate/preparation": ("estimate/preparation", "estimate/candidates"),
    "estimate/variables": ("estimate/variables", "estimate/splitting"),
    "information_plane/activations": (
        *("information_plane/comparisons", "information_plane/observation"),
        "information_plane/recorder",
    ),
    "information_plane/files": ("information_plane/planes", "information_plane/records"),
    "information_plane/folder_lock": ("information_plane/run",),
    "information_plane/merging": ("information_plane/figure_runs",),
    "information_plane/observation": ("information_plane/observation", "information_plane/run"),
    "information_plane/snapshots": ("information_plane/recorder", "information_plane/run"),
    "information_plane/targets": ("information_plane/observation", "information_plane/recorder"),
}

OPERATORS = (
    *(
        f"ReplaceBinaryOperator_{change}"
        for change in (
            *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul"),
            *("BitAnd_BitOr", "BitOr_BitAnd"),
        )
    ),
    *(
        f"ReplaceComparisonOperator_{change}"
        for change in (
            *("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_GtE", "LtE_Gt", "Gt_LtE", "GtE_Lt"),
            *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is"),
        )
    ),
    *(f"ReplaceUnaryOperator_Delete_{sign}" for sign in ("USub", "Invert", "Not")),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop"),
    *("AddNot", "NumberReplacer"),
)
UNCHANGED = ("", "")
NOTE = (
    "One place of the source is changed at random: a comparison, a sign, an arithmetic operator, "
    "a condition, a small number, a truth value. The tests of its module run on it until one fails."
)
LARGE = 16  # a number above it, give or take 1, is as good


class Mutant(NamedTuple):
    """A change of one place of a module.

    Attributes:
      module: such as "mine/bounds".
      line: number of the line, from 1.
      before: its text.
      after: its text, changed.
      source: text of the changed module.
    """

    module: str
    line: int
    before: str
    after: str
    source: str

    @property
    def name(self) -> tuple[str, ...]:
        """What it is known by, wherever in the module the line may be."""
        return self.module, self.before, self.after


def places_without_effect(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield (line, column) of start and end of what is no behavior, or a choice written down.

    That is signatures, decorators, constants, default values, and texts of messages.
    """

    def start(node: ast.AST) -> tuple[int, int]:
        return node.lineno, node.col_offset  # type: ignore[attr-defined]

    def end(node: ast.AST) -> tuple[int, int]:
        return node.end_lineno, node.end_col_offset  # type: ignore[attr-defined]

    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = min([start(node), *(start(decorator) for decorator in node.decorator_list)])
            yield first, start(node.body[0])
        elif isinstance(node, ast.Raise | ast.JoinedStr):
            yield start(node), end(node)
        elif isinstance(node, ast.AnnAssign):
            yield start(node.annotation), end(node.annotation)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("logging", "warn")):
            yield start(node), end(node)
        if isinstance(node, ast.Module | ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.Assign | ast.AnnAssign):
                    yield start(inner), end(inner)


def places_of(source: str) -> list[list[tuple[str, int]]]:
    """Return the changes of a source, those of one place together: operator and occurrence."""
    from cosmic_ray import ast as trees
    from cosmic_ray import plugins

    class Places(trees.Visitor):
        def __init__(self, operator: Any) -> None:
            self.operator, self.found = operator, []

        def visit(self, node: Any) -> Any:
            large = node.type == "number" and not abs(complex(node.value)) <= LARGE
            self.found += [(at, large) for at, _ in self.operator.mutation_positions(node)]
            return node

    excluded = list(places_without_effect(source))
    tree = trees.get_ast(source)
    changes: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for name in OPERATORS:
        places = Places(plugins.get_operator(f"core/{name}")())
        places.walk(tree)
        for occurrence, (at, large) in enumerate(places.found):
            if not large and not any(first <= at < last for first, last in excluded):
                changes.setdefault(at, []).append((name, occurrence))
    return [changes[at] for at in sorted(changes)]


def mutant_of(module: str, source: str, operator: str, occurrence: int) -> Mutant | None:
    """Return the changed module; None if that is no Python, as where a star is that of a call."""
    from cosmic_ray import mutating, plugins

    changed = mutating.mutate_code(source, plugins.get_operator(f"core/{operator}")(), occurrence)
    try:
        ast.parse(changed)
    except SyntaxError:
        return None
    lines = zip(source.splitlines(), changed.splitlines(), strict=False)
    line, (before, after) = next(
        (line, pair) for line, pair in enumerate(lines, 1) if pair[0] != pair[1]
    )
    return Mutant(module, line, before.strip(), after.strip(), changed)


def draw(times: int) -> list[Mutant]:
    """Draw mutants: places of all rooms with equal chance, then one change of each place."""
    rng = random.Random(0)
    places = []
    for room in ROOMS:
        for path in sorted((ROOT / "mine_jax" / room).glob("*.py")):
            if not NOT_CHANGED.fullmatch(path.stem):
                source, module = path.read_text(), f"{room}/{path.stem}"
                places += [(module, source, changes) for changes in places_of(source)]
    rng.shuffle(places)
    drawn = (mutant_of(module, source, *rng.choice(changes)) for module, source, changes in places)
    return list(itertools.islice((mutant for mutant in drawn if mutant), times))


class Outcome(NamedTuple):
    """How tests ended: whether one failed, which, and seconds of the processor."""

    failed: bool
    test: str
    seconds: float


def run_tests(copy: Path, tests: Sequence[str], most_seconds: int) -> Outcome:
    """Run test modules in the copy until a test fails, or for so long."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    process = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-x", "-rfE", "--tb=no", "-p", "no:cacheprovider"),
            *("-p", "no:randomly", *(f"tests/{'/test_'.join(t.split('/'))}.py" for t in tests)),
        ],
        cwd=copy,
        env=os.environ
        | {
            "PYTHONPATH": str(copy),
            "PYTHONDONTWRITEBYTECODE": "1",  # a module may change twice in the same second
            "JAX_COMPILATION_CACHE_DIR": str(copy.parent / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        },
        # Seconds of the processor, not of the clock: others may use it, too.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (most_seconds, most_seconds)),
        capture_output=True,
        text=True,
        check=False,
    )
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", process.stdout, re.MULTILINE)
    test = failed[1] if failed else process.stdout[-500:] if process.returncode else ""
    return Outcome(process.returncode != 0, test, used() - before)


def run_mutants(folder: Path, mutants: Sequence[Mutant]) -> list[dict[str, Any]]:
    """Test each mutant in a copy of the sources; what was noticed before is not tried again."""
    copy, log = folder / "copy", folder / "mutants.jsonl"
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("mine_jax", "tests", "experiments"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("runs"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    lines = log.read_text().splitlines() if log.exists() else []
    known = {tuple(entry["name"]): entry for entry in map(json.loads, lines)}

    def tested(name: tuple[str, ...], tests: Sequence[str], most_seconds: int) -> dict[str, Any]:
        if name not in known or not (known[name]["failed"] or name[1:] == UNCHANGED):
            entry = {"name": name, **run_tests(copy, tests, most_seconds)._asdict()}
            with log.open("a") as stream:
                stream.write(json.dumps(entry) + "\n")
            known[name] = entry
        return known[name]

    entries = []
    for mutant in mutants:
        tests, most_seconds = TESTS.get(mutant.module, (mutant.module,)), 30.0
        for test in tests:  # which also compiles what most mutants leave as it is
            unchanged = tested((test, *UNCHANGED), [test], 3600)
            if unchanged["failed"]:
                raise RuntimeError(f"{test} fails without a change: {unchanged['test']}")
            most_seconds += 5 * unchanged["seconds"]
        path = copy / "mine_jax" / f"{mutant.module}.py"
        source = path.read_text()
        path.write_text(mutant.source)
        entries.append(tested(mutant.name, tests, int(most_seconds)))
        path.write_text(source)
    return entries


def measure(folder: Path, times: int | None) -> Table:
    """Make mutants, test them, and count those that no test noticed.

    Args:
      folder: for the copy of the sources, compiled programs, and `mutants.jsonl`.
      times: number of mutants; None for 100.
    """
    if importlib.util.find_spec("cosmic_ray") is None:
        raise ModuleNotFoundError("mutants are made by cosmic-ray: pip install cosmic-ray")
    mutants = draw(times or 100)
    noticed = [entry["failed"] for entry in run_mutants(folder.absolute(), mutants)]
    rows, failures, equal = [], [], []
    for room in ROOMS:
        here = [(m, n) for m, n in zip(mutants, noticed, strict=True) if m.module.startswith(room)]
        missed = [mutant for mutant, seen in here if not seen]
        without_effect = [mutant for mutant in missed if mutant.name in EQUAL]
        counts = (len(here) - len(missed), len(without_effect), len(missed) - len(without_effect))
        rows.append((f"`mine_jax/{room}`", *map(str, (len(here), *counts))))
        for mutant in missed:
            change = f"`{mutant.module}.py`: `{mutant.before}` as `{mutant.after}`"
            if mutant in without_effect:
                equal.append(f"- {change}: {EQUAL[mutant.name]}")
            else:
                failures.append(f"{change} (line {mutant.line}) is noticed by no test.")
    return Table(
        title="Errors in the source",
        columns=("changed", "changes", "noticed by a test", "as good", "not noticed"),
        rows=tuple(rows),
        note="\n".join([NOTE, *(["", "These are as good:", "", *equal] if equal else [])]),
        failures=tuple(failures),
    )
