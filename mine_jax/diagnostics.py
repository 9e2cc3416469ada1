"""Records -> findings: what the values of a run allow to say, and what they do not."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

SIGNIFICANT = 2.0  # standard errors
NEAR_CEILING = 0.9  # share of the ceiling from which a value may be held down by it
_SYMBOL = {"x": "X", "y": "Y"}


def findings(
    records: Sequence[Row], layers: Sequence[str], class_entropy_nats: float
) -> dict[str, Any]:
    """Test the data-processing inequality and collect what limits the values.

    For each probe and variable, and each layer with the one before it in `layers`, the drop
    I(·; earlier) − I(·; later) is set against its own standard error, that of a difference on the
    same samples (`drop_stderr` of the later layer's row). The inequality asks for a drop of at
    least 0; it is called broken below −2 standard errors. It is a theorem for the mutual
    information of layers that are functions of one another, not for lower bounds of it: a break
    says that the later layer's network came closer to its truth.

    Args:
      records: rows as in `records.jsonl`.
      layers: names in the order of depth.
      class_entropy_nats: H(Y).

    Returns:
      A mapping that JSON can hold: `inequality` (a row for each test), `at_ceiling`,
      `not_converged`, `out_of_range`, `not_finite` (rows that name a record) and `sentences`.
    """
    not_finite = [_name(row) for row in records if row["mi_nats"] is None or row["stderr"] is None]
    records = [row for row in records if _name(row) not in not_finite]
    tests = [test for row in records if (test := _drop(row, layers)) is not None]
    at_ceiling = [
        _name(row)
        for row in records
        if row["mi_nats"] + SIGNIFICANT * row["stderr"] >= NEAR_CEILING * row["ceiling_nats"]
    ]
    not_converged = [_name(row) for row in records if not row["converged"]]
    out_of_range = [
        _name(row) | {"mi_nats": row["mi_nats"], "stderr": row["stderr"]}
        for row in records
        if _out_of_range(row, class_entropy_nats)
    ]
    result = {
        "inequality": tests,
        "at_ceiling": at_ceiling,
        "not_converged": not_converged,
        "out_of_range": out_of_range,
        "not_finite": not_finite,
    }
    return result | {"sentences": _sentences(result, records, class_entropy_nats)}


def _drop(row: Row, layers: Sequence[str]) -> dict[str, Any] | None:
    depth = layers.index(row["layer"])
    if depth == 0 or row["drop_nats"] is None or row["drop_stderr"] is None:
        return None
    drop, stderr = row["drop_nats"], row["drop_stderr"]
    errors = drop / stderr if stderr > 0 else math.copysign(math.inf, drop) if drop else 0.0
    return {
        "seed": row["seed"],
        "epoch": row["epoch"],
        "variable": row["variable"],
        "earlier": layers[depth - 1],
        "later": row["layer"],
        "drop_nats": drop,
        "stderr": stderr,
        "standard_errors": errors if math.isfinite(errors) else None,
        "held": errors >= -SIGNIFICANT,
    }


def _out_of_range(row: Row, class_entropy_nats: float) -> bool:
    margin = SIGNIFICANT * row["stderr"]
    above = row["variable"] == "y" and row["mi_nats"] > class_entropy_nats + margin
    return above or row["mi_nats"] < -margin


def _name(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("seed", "epoch", "layer", "variable")}


def _sentences(
    result: Mapping[str, Any], records: Sequence[Row], class_entropy_nats: float
) -> list[str]:
    sentences = [
        "The network is deterministic and no noise was added, so the true I(X;L) is infinite, or "
        "ln N for N different images: every value here is a lower bound that its statistics "
        "network reached."
    ]
    for variable, symbol in _SYMBOL.items():
        tests = [test for test in result["inequality"] if test["variable"] == variable]
        if tests:
            sentences.append(_inequality(tests, symbol))
    count = len(records) + len(result["not_finite"])
    for name, text in (
        ("at_ceiling", "within a tenth of the ceiling, so that the truth may be far above"),
        ("not_converged", "still growing when the step cap was reached"),
        ("not_finite", "not finite"),
        ("out_of_range", f"below 0 or above H(Y) = {class_entropy_nats:.3f} nats beyond 2 stderr"),
    ):
        if result[name]:
            sentences.append(
                f"{len(result[name])} of {count} values {text}: {_list(result[name])}."
            )
    if not result["out_of_range"]:
        sentences.append(
            f"Every I(Y;L) lies within [0, H(Y) = {class_entropy_nats:.3f} nats] up to 2 stderr."
        )
    return sentences


def _inequality(tests: Sequence[Row], symbol: str) -> str:
    broken = [test for test in tests if not test["held"]]
    claim = f"The data-processing inequality of I({symbol};L) held in {len(tests) - len(broken)}"
    if not broken:
        return f"{claim} of {len(tests)} tests."
    steps: dict[tuple[str, str], list[Row]] = {}
    for test in broken:
        steps.setdefault((test["earlier"], test["later"]), []).append(test)
    parts = []
    for (earlier, later), rows in steps.items():
        worst = min(rows, key=lambda row: row["drop_nats"])
        errors = worst["standard_errors"]
        size = f"by {-worst['drop_nats']:.2f} nats"
        size += f", {-errors:.0f} standard errors" if errors is not None else ""
        parts.append(f"{earlier} → {later} {len(rows)} times, at most {size}")
    return (
        f"{claim} of {len(tests)} tests and was broken in the others ({'; '.join(parts)}): there "
        "the later layer's statistics network came closer to its truth than the earlier one's."
    )


def _list(rows: Sequence[Row], most: int = 6) -> str:
    """The records in words, such as I(X;conv1) at epoch 0, 4."""
    epochs: dict[str, list[int]] = {}
    for row in rows:
        epochs.setdefault(f"I({_SYMBOL[row['variable']]};{row['layer']})", []).append(row["epoch"])
    parts = []
    for name, where in epochs.items():
        where = sorted(set(where))
        shown = ", ".join(map(str, where[:most])) + (", …" if len(where) > most else "")
        parts.append(f"{name} at epoch {shown}")
    return "; ".join(parts)
