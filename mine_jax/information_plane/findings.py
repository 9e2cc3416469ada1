"""Findings: what the records of a run show, and what limits them."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mine_jax.mine import CEILING_MARGIN

Row = Mapping[str, Any]

SIGNIFICANT = 2.0  # standard errors
# A lower bound exceeds an exact value by chance alone; more than that is an error.
ABOVE_NATS, ABOVE_ERRORS = 0.05, 3.0
BELOW_FRACTION = 0.05
_SYMBOL = {"x": "X", "y": "Y"}
_DETERMINISTIC = (
    "The network is deterministic and no noise was added, so the true I(X;L) is infinite, or ln N "
    "for N different images. Every value is a lower bound that its statistics network reached."
)
_THEOREM = (
    "Without noise each layer is a function of the one before, so the data-processing inequality "
    "is a theorem for the true values. It need not hold for lower bounds of them."
)
_NOISY = (
    "Every layer is observed with Gaussian noise, T = L + σε, so that I(X;T) and I(Y;T) are finite "
    "and known (reference_nats). The references treat the probed images as the whole population, "
    "the estimates come from images that no statistics network has seen: where σ is small beside "
    "the distances of images, the reference I(Y;T) is above what can be learnt."
)
_NO_THEOREM = (
    "Noise is added to each layer separately and not passed on to the next one, so the "
    "data-processing inequality is not a theorem for the observed layers."
)


def findings(
    records: Sequence[Row], layers: Sequence[str], class_entropy_nats: float
) -> dict[str, Any]:
    """Test the data-processing inequality and collect what limits the values.

    For each probe and variable, and each layer with the one before it in `layers`, the drop
    I(·; earlier) − I(·; later) is compared with its standard error on the same samples
    (`drop_stderr` of the later layer's row). The inequality asks for a drop of at least 0; it is
    called broken below −2 standard errors. Values taken from a later layer's network make the drop
    0 by construction, so the drop between the layers' own networks is tested, too
    (`own_drop_nats` and `own_drop_stderr`, or without them the difference of `own_nats`, whose
    standard error takes both values for independent).

    Whether the inequality is a theorem depends on the noise (`noise_std` of the rows):
      - None: it is a theorem for the mutual information, but not for lower bounds of it: where it
        is broken, the later layer's network came closer to its true value.
      - Measurement noise of each layer: it is no theorem. A later layer that is large beside its
        noise can tell more than an earlier one that is small beside its own. But the exact values
        are known (`reference_nats`): an estimate that is higher by more than 0.05 nats and 3
        standard errors of the difference is wrong; one that is lower by more than 5 % and 2
        standard errors missed a part.

    Args:
      records: rows as in `records.jsonl`, in nats.
      layers: names in the order of depth.
      class_entropy_nats: H(Y).

    Returns:
      A mapping that JSON can hold: `inequality_is_theorem`, `inequality` (a row for each test),
      `at_ceiling`, `not_converged`, `out_of_range`, `not_finite`, `from_later_network`,
      `above_reference`, `below_reference` (rows that name a record) and `sentences`.
    """
    noisy = any(row.get("noise_std") for row in records)
    not_finite = [_name(row) for row in records if row["mi_nats"] is None or row["stderr"] is None]
    records = [row for row in records if _name(row) not in not_finite]
    by_place = {_place(row): row for row in records}
    tests = [test for row in records if (test := _drop(row, by_place, layers)) is not None]
    at_ceiling = [
        _name(row)
        for row in records
        if row["mi_nats"] + SIGNIFICANT * row["stderr"] > row["ceiling_nats"] - CEILING_MARGIN
        or any(text.startswith("Near the ceiling") for text in row.get("warnings", ()))
    ]
    not_converged = [_name(row) for row in records if not row["converged"]]
    out_of_range = [
        _name(row) | {"mi_nats": row["mi_nats"], "stderr": row["stderr"]}
        for row in records
        if _out_of_range(row, class_entropy_nats)
    ]
    known = [row for row in records if row.get("reference_nats") is not None]
    result = {
        "inequality_is_theorem": not noisy,
        "inequality": tests,
        "at_ceiling": at_ceiling,
        "not_converged": not_converged,
        "out_of_range": out_of_range,
        "not_finite": not_finite,
        "from_later_network": [
            _name(row) | {name: row[name] for name in ("network", "mi_nats", "own_nats")}
            for row in records
            if row.get("network", row["layer"]) != row["layer"]
        ],
        "above_reference": [_beside_reference(row) for row in known if _above(row)],
        "below_reference": [_beside_reference(row) for row in known if _below(row)],
    }
    return result | {"sentences": _sentences(result, records, class_entropy_nats)}


def _place(row: Row) -> tuple[Any, ...]:
    return row["seed"], row["epoch"], row["variable"], row["layer"]


def _drop(
    row: Row, by_place: Mapping[tuple[Any, ...], Row], layers: Sequence[str]
) -> dict[str, Any] | None:
    depth = layers.index(row["layer"])
    if depth == 0 or row["drop_nats"] is None or row["drop_stderr"] is None:
        return None
    drop, stderr = row["drop_nats"], row["drop_stderr"]
    errors = drop / stderr if stderr > 0 else math.copysign(math.inf, drop) if drop else 0.0
    earlier = by_place.get((*_place(row)[:-1], layers[depth - 1]), {})
    networks = earlier.get("network"), row.get("network")
    own = _own_drop(row, earlier)
    references: tuple[Any, Any] = (earlier.get("reference_nats"), row.get("reference_nats"))
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
        "same_network": networks[0] is not None and networks[0] == networks[1],
        "reference_drop_nats": None if None in references else references[0] - references[1],
        "own_drop_nats": own and own[0],
        "own_stderr": own and own[1],
        "own_held": own and own[0] >= -SIGNIFICANT * own[1],
    }


def _own_drop(row: Row, earlier: Row) -> tuple[float, float] | None:
    """Return the drop between the layers' own networks, and its standard error, if known."""
    drop, stderr = row.get("own_drop_nats"), row.get("own_drop_stderr")
    if drop is not None and stderr is not None:
        return drop, stderr
    before, after = earlier.get("own_nats"), row.get("own_nats")
    if before is None or after is None:
        return None
    return before - after, math.hypot(earlier["stderr"], row["stderr"])


def _out_of_range(row: Row, class_entropy_nats: float) -> bool:
    margin = SIGNIFICANT * row["stderr"]
    above = row["variable"] == "y" and row["mi_nats"] > class_entropy_nats + margin
    return above or row["mi_nats"] < -margin


def _above(row: Row) -> bool:
    stderr = math.hypot(row["stderr"], row.get("reference_stderr") or 0.0)
    return row["mi_nats"] - row["reference_nats"] > ABOVE_NATS + ABOVE_ERRORS * stderr


def _below(row: Row) -> bool:
    stderr = math.hypot(row["stderr"], row.get("reference_stderr") or 0.0)
    missing = row["reference_nats"] - row["mi_nats"]
    # Near 0 the sampling error alone is more than that fraction.
    return missing > max(BELOW_FRACTION * row["reference_nats"], SIGNIFICANT * stderr)


def _name(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("seed", "epoch", "layer", "variable")}


def _beside_reference(row: Row) -> dict[str, Any]:
    columns = ("mi_nats", "stderr", "reference_nats", "reference_stderr", "ceiling_nats")
    return _name(row) | {name: row.get(name) for name in columns}


def _sentences(
    result: Mapping[str, Any], records: Sequence[Row], class_entropy_nats: float
) -> list[str]:
    noisy = not result["inequality_is_theorem"]
    sentences = [_NOISY if noisy else _DETERMINISTIC, _NO_THEOREM if noisy else _THEOREM]
    for variable, symbol in _SYMBOL.items():
        tests = [test for test in result["inequality"] if test["variable"] == variable]
        if tests:
            sentences.append(_order(tests, symbol) if noisy else _inequality(tests, symbol))
    if result["from_later_network"]:
        sentences.append(
            f"{len(result['from_later_network'])} of {len(records)} values come from a later "
            "layer's statistics network, which is also a valid one for the earlier layer: on the "
            "validation samples the earlier layer's own network was not better by a standard error."
        )
    sentences += _against_reference(result, records)
    count = len(records) + len(result["not_finite"])
    for name, text in (
        ("at_ceiling", "are less than a nat below the ceiling; the true values may be far higher"),
        ("not_converged", "had not converged at the limit of steps"),
        ("not_finite", "are not finite"),
        ("out_of_range", f"lie beyond [0, H(Y) = {class_entropy_nats:.3f} nats] by 2 stderr"),
    ):
        if result[name]:
            sentences.append(
                f"{len(result[name])} of {count} values {text}: {_list(result[name])}."
            )
    if not result["out_of_range"]:
        every = f"Every I(Y;{'T' if noisy else 'L'}) lies within"
        sentences.append(f"{every} [0, H(Y) = {class_entropy_nats:.3f} nats] up to 2 stderr.")
    return sentences


def _inequality(tests: Sequence[Row], symbol: str) -> str:
    """Say in how many tests the inequality held: by own networks, and as reported."""
    by_own = [test for test in tests if test["own_held"] is not None]
    shared = sum(test["same_network"] for test in tests)
    parts = []
    if by_own:
        breaks = _breaks([test for test in by_own if not test["own_held"]], "own_drop_nats")
        held = sum(test["own_held"] for test in by_own)
        parts.append(
            f"With each layer's own network the data-processing inequality of I({symbol};L) held "
            f"in {held} of {len(by_own)} tests{breaks}."
        )
    if shared or not by_own:
        held = sum(test["held"] for test in tests)
        subject = "it" if by_own else f"the data-processing inequality of I({symbol};L)"
        text = f"{subject} held in {held} of {len(tests)} tests"
        if shared:
            text = f"with values taken from later networks {text}"
            text += f", {shared} of them equal by construction"
        breaks = _breaks([test for test in tests if not test["held"]], "drop_nats")
        parts.append(f"{text[0].upper()}{text[1:]}{breaks}.")
    return " ".join(parts)


def _breaks(tests: Sequence[Row], column: str) -> str:
    """List where the inequality was broken, with the largest rise."""
    steps: dict[tuple[str, str], list[Row]] = {}
    for test in tests:
        steps.setdefault((test["earlier"], test["later"]), []).append(test)
    listed = [
        f"{earlier} → {later} {len(rows)} times, by at most "
        f"{-min(row[column] for row in rows):.2f} nats"
        for (earlier, later), rows in steps.items()
    ]
    return f" and was broken in the others ({'; '.join(listed)})" if listed else ""


def _order(tests: Sequence[Row], symbol: str) -> str:
    """Describe the order of the estimates where the inequality is no theorem."""
    rising = [test for test in tests if not test["held"]]
    text = (
        f"The estimates of I({symbol};T) did not rise with depth in {len(tests) - len(rising)} of "
        f"{len(tests)} tests"
    )
    drops = [test["reference_drop_nats"] for test in rising]
    if any(drop is not None for drop in drops):
        too = sum(drop is not None and drop < 0 for drop in drops)
        text += f"; where they rose, the references rise too in {too} of {len(rising)}"
    return f"{text}."


def _against_reference(result: Mapping[str, Any], records: Sequence[Row]) -> list[str]:
    known = [row for row in records if row.get("reference_nats") is not None]
    if not known:
        return []
    above, below = result["above_reference"], result["below_reference"]
    fractions = [
        row["mi_nats"] / row["reference_nats"] for row in known if row["reference_nats"] > 0
    ]
    reached = f"; they reach {statistics.median(fractions):.0%} of it (median)" if fractions else ""
    sentences = [f"{len(known)} of {len(records)} values have a reference{reached}."]
    claim = f"more than {ABOVE_NATS} nats and {ABOVE_ERRORS:.0f} standard errors above"
    if above:
        sentences.append(
            f"{len(above)} of {len(known)} are {claim} their reference, which no lower bound can "
            f"be: {_list(above)}."
        )
    else:
        sentences.append(f"None is {claim} its reference.")
    if below:
        capped = sum(row["reference_nats"] > row["ceiling_nats"] for row in below)
        over = f" ({capped} of these references are above the ceiling)" if capped else ""
        sentences.append(
            f"{len(below)} of {len(known)} are more than {BELOW_FRACTION:.0%} below their "
            f"reference{over}: {_list(below)}."
        )
    else:
        sentences.append(f"None is more than {BELOW_FRACTION:.0%} below its reference.")
    return sentences


def _list(rows: Sequence[Row], limit: int = 6) -> str:
    """Return the records in words, such as I(X;conv1) at epoch 0, 4."""
    epochs: dict[str, list[int]] = {}
    for row in rows:
        epochs.setdefault(f"I({_SYMBOL[row['variable']]};{row['layer']})", []).append(row["epoch"])
    parts = []
    for name, where in epochs.items():
        where = sorted(set(where))
        shown = ", ".join(map(str, where[:limit])) + (", …" if len(where) > limit else "")
        parts.append(f"{name} at epoch {shown}")
    return "; ".join(parts)
