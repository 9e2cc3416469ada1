"""`python -m mine_jax`: figures of run folders, and estimates from files."""

import argparse
import difflib
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mine_jax.estimate.table_files import read_table, select
from mine_jax.information_plane import Plane, load
from mine_jax.information_plane.planes import printable
from mine_jax.information_plane.records import RunFolderError

SUFFIXES = (".png", ".pdf", ".svg", ".html")
# Whether x and z are labels.
DISCRETE = {
    "auto": "auto",
    "x": (True, False),
    "z": (False, True),
    "both": True,
    "none": False,
}
DESCRIPTION = """\
Mutual information of samples, and information planes of networks, by MINE in JAX.
`python -m mine_jax plot --help` and `python -m mine_jax estimate --help` say more."""
PLOT = """\
Draw the information plane of run folders: those of a Recorder, of Plane.save, or of
experiments/info_plane.py. Runs of the same settings with different seeds become one plane with a
band; others are drawn side by side, a column each."""
PLOT_EXAMPLES = """\
examples:
  python -m mine_jax plot runs/mine
  python -m mine_jax plot runs/tanh runs/relu --out activations.pdf
  python -m mine_jax plot runs/mine --out plane.html        (needs pip install 'mine_jax[html]')
  python -m mine_jax plot runs/mine --over_epochs --out epochs.svg"""
ESTIMATE = """\
Estimate a lower bound on the mutual information of two variables, in nats. Each row is a sample.
Text, and one column of numbers that repeat often, are labels; all else are numbers."""
ESTIMATE_EXAMPLES = """\
examples:
  python -m mine_jax estimate people.csv --x age,height --z income
  python -m mine_jax estimate people.csv --x 0-9 --z 10 --groups patient --test
  python -m mine_jax estimate layers.npz --x inputs --z hidden --json"""


class UserError(Exception):
    """The arguments do not go together; the message names the remedy."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
      argv: arguments after the program's name; None for those of the process.

    Returns:
      The exit status: 0, or 1 after an error, which is one line on stderr. Arguments that cannot
      be parsed end in `SystemExit` with status 2.
    """
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        words = arguments.command is _estimate and not unknown[0].startswith("-")
        hint = " (names are separated by commas, as in --x age,height)" if words else ""
        options = re.findall(r"--\w+", arguments.usage)
        if close := difflib.get_close_matches(unknown[0].partition("=")[0], options, 1):
            hint = f" (did you mean {close[0]}?)"
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    try:
        arguments.command(arguments)
    except (UserError, RunFolderError, ValueError, OSError, ImportError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    look: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("python -m mine_jax", description=DESCRIPTION, **look)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    text = "draw the information plane of run folders"
    plot = commands.add_parser(
        "plot", help=text, description=PLOT, epilog=PLOT_EXAMPLES, allow_abbrev=False, **look
    )
    plot.set_defaults(command=_plot)
    plot.add_argument("folders", metavar="RUN_DIR", nargs="+", help="run folder")
    plot.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"file to write, its end one of {', '.join(SUFFIXES)} (default: information_plane.png "
        "here, or mi_over_epochs.png)",
    )
    plot.add_argument(
        "--over_epochs", action="store_true", help="values and accuracy against the epoch"
    )
    plot.set_defaults(usage=plot.format_usage())
    text = "estimate the mutual information of columns of a file"
    estimate = commands.add_parser(
        "estimate",
        help=text,
        description=ESTIMATE,
        epilog=ESTIMATE_EXAMPLES,
        allow_abbrev=False,
        **look,
    )
    estimate.set_defaults(command=_estimate)
    estimate.add_argument(
        "file",
        metavar="FILE",
        help=".csv (first row: names, if it is not numbers), .npz (arrays by name) or .npy",
    )
    names = "names of columns or their numbers from 0, separated by commas; 0-9 for a range"
    estimate.add_argument("--x", metavar="NAMES", required=True, help=names)
    estimate.add_argument("--z", metavar="NAMES", required=True, help="likewise")
    estimate.add_argument(
        "--discrete",
        choices=DISCRETE,
        default="auto",
        help="which of the two are labels (default: auto, as their values tell)",
    )
    estimate.add_argument(
        "--groups", metavar="COLUMN", help="rows with equal values here are not independent"
    )
    estimate.add_argument(
        "--blocks", type=int, metavar="K", help="rows are a series in order: cut it into K blocks"
    )
    estimate.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of all random choices (default: 0)"
    )
    estimate.add_argument(
        "--test", action="store_true", help="test independence, too, and print the p-value"
    )
    estimate.add_argument("--json", action="store_true", help="print one JSON object")
    estimate.set_defaults(usage=estimate.format_usage())
    return parser


# --- plot -----------------------------------------------------------------------------------------


def _plot(arguments: argparse.Namespace) -> None:
    from mine_jax.information_plane.merging import merge_seeds

    name = "mi_over_epochs" if arguments.over_epochs else "information_plane"
    out = arguments.out or Path(f"{name}.png")
    kind = out.suffix.lower()
    if kind not in SUFFIXES:
        raise UserError(f"--out is {out}; its end must be one of {', '.join(SUFFIXES)}")
    if kind == ".html" and arguments.over_epochs:
        raise UserError("--over_epochs is for figures; the page has a slider of the epochs instead")
    if not out.absolute().parent.is_dir():
        reason = "is a file" if out.parent.exists() else "does not exist; make it first"
        raise UserError(f"the folder of --out, {out.parent}, {reason}")
    runs = _load_runs(arguments.folders)
    merged = merge_seeds(list(runs.values()))
    if kind == ".html":
        if merged is None:
            raise UserError(
                "a page shows one run, or runs that differ in their seeds alone; make one for each "
                "RUN_DIR, or a figure (--out FILE.png)"
            )
        merged.html(out)
    else:
        _write_figure(_figure(runs, merged, arguments.over_epochs), out)
    print(f"Written to {printable(str(out))}")


def _load_runs(folders: Sequence[str]) -> dict[str, Plane]:
    """Return the runs by the name of their folder, or its path where names are the same."""
    paths = [Path(folder) for folder in dict.fromkeys(folders)]
    names = [path.absolute().name for path in paths]
    runs = {}
    for path, name in zip(paths, names, strict=True):
        if not path.is_dir():
            kind = "is a file, no run folder" if path.exists() else "does not exist"
            raise UserError(f"{path} {kind}{_similar_folder(path)}")
        runs[printable(name if names.count(name) == 1 else str(path))] = load(path)
    return runs


def _similar_folder(path: Path) -> str:
    parent = path.absolute().parent
    others = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
    close = difflib.get_close_matches(path.name, others, 1)
    return f"; did you mean {path.with_name(close[0])}?" if close else ""


def _figure(runs: dict[str, Plane], merged: Plane | None, over_epochs: bool) -> Any:
    from mine_jax.information_plane import figure_runs

    if merged is not None:
        return merged.figure(over_epochs)
    if over_epochs:
        return figure_runs.side_by_side_over_epochs(runs)
    return figure_runs.side_by_side(runs)


def _write_figure(figure: Any, path: Path) -> None:
    from mine_jax.information_plane.files import replacing

    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:].lower())


# --- estimate -------------------------------------------------------------------------------------


def _estimate(arguments: argparse.Namespace) -> None:
    import jax

    from mine_jax.estimate import Estimate, independence_test, lower_bound

    table = read_table(arguments.file)
    x, z = (
        select(table, [name.strip() for name in names.split(",")], arguments.file)
        for names in (arguments.x, arguments.z)
    )
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed must be from 0 to 2**32 - 1, got {arguments.seed}")
    groups = arguments.groups
    options: dict[str, Any] = {
        "key": jax.random.key(arguments.seed),
        "discrete": DISCRETE[arguments.discrete],
        "groups": None if groups is None else select(table, [groups], arguments.file),
        "blocks": arguments.blocks,
    }
    estimate = lower_bound(x, z, **options)
    assert isinstance(estimate, Estimate)  # z is one array
    result: dict[str, Any] = {
        "nats": estimate.nats,
        "stderr": estimate.stderr,
        "ceiling_nats": estimate.ceiling_nats,
        "train_nats": estimate.train_nats,
        "samples": len(x),
        "converged": estimate.converged,
        "warnings": list(estimate.warnings),
        "encoders": list(estimate.encoders),
    }
    if arguments.test:
        test = independence_test(x, z, **options)
        result |= {"p_value": test.p_value, "test_warnings": list(test.warnings)}
    print(_json(result) if arguments.json else _lines(arguments, result))


def _json(result: dict[str, Any]) -> str:
    known = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in result.items()
    }
    return json.dumps(known, allow_nan=False)


def _lines(arguments: argparse.Namespace, result: dict[str, Any]) -> str:
    lines = [
        f"I({arguments.x}; {arguments.z}) of {result['samples']:,} samples, lower bound",
        f"value           {result['nats']:.3f} nats",
        f"standard error  {result['stderr']:.3f} nats",
        f"ceiling         {result['ceiling_nats']:.2f} nats",
    ]
    if "p_value" in result:
        lines.append(f"p-value         {result['p_value']:.3g} (independence)")
    warnings = [*result["warnings"], *result.get("test_warnings", ())]
    lines += [f"warning: {text}" for text in dict.fromkeys(warnings)]
    return "\n".join(lines)
