"""Findings: what the records of a run show, and what limits them."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mine_jax.information_plane.observation import MAX_LOST_NATS
from mine_jax.mine import CEILING_MARGIN

Row = Mapping[str, Any]

OBSERVED, DETERMINISTIC = "observed", "deterministic"
SIGNIFICANT = 2.0  # standard errors
CLEAR = 3.0  # standard errors, where so many differences are listed that some are chance
BELOW_FRACTION = {"x": 0.03, "y": 0.04}
_SYMBOL = {"x": "X", "y": "Y"}
_VALUE = {OBSERVED: "T", DETERMINISTIC: "L"}
_KNOWN = (
    "Observed layers: each layer is observed with Gaussian noise, T = L + σε, so that I(X;T) and "
    "I(Y;T) are finite and known up to a bracket. I(X;T) lies between the mixture that includes "
    "the image itself and the one that leaves it out; I(Y;T) between the classifier that leaves "
    "the image out and the one that includes it."
)
_NO_CHAIN = (
    "Each layer has its own measurement noise, which is not passed on, so the observed layers are "
    "no Markov chain: the data-processing inequality is no theorem for them and is not tested, and "
    "no value is taken over from another layer."
)
_UNKNOWN = (
    "Deterministic layers: no noise was added, so the true I(X;L) is infinite, or ln N for N "
    "different images. Every value is a lower bound that its statistics network reached."
)
_CHAIN = (
    "Without noise each layer is a function of the one before, so the data-processing inequality "
    "is a theorem for the true values. It need not hold for lower bounds of them."
)


def findings(
    records: Sequence[Row], layers: Sequence[str], class_entropy_nats: float
) -> dict[str, Any]:
    """Compare the values of both planes with what is known, and collect what limits them.

    Deterministic layers: for each probe and variable, and each layer with the one before it, the
    drop I(·; earlier) − I(·; later) is compared with its standard error on the same samples
    (`drop_stderr` of the later layer's row). The data-processing inequality asks for a drop of at
    least 0; it is called broken below −2 standard errors. It is a theorem for the mutual
    information, but not for lower bounds of it: where it is broken, the later layer's network came
    closer to its true value. Where two layers have the same network, the drop is 0 by construction
    and no test (`held` is None). The drop between the layers' own networks is always tested
    (`own_drop_nats` and `own_drop_stderr`, or without them the difference of `own_nats`, whose
    standard error takes both values for independent).

    Observed layers: the inequality is not tested, since measurement noise of each layer makes no
    Markov chain. The estimates are compared with their brackets: above, if they exceed the high
    side by more than 3 standard errors of the paired difference; below, if they miss more than 3 %
    (X) or 4 % (Y) of the low side, and more than 2 standard errors.

    Both: a layer moved between successive probes, or two neighboring layers differ, if the paired
    difference is more than 3 of its standard errors from 0; not where both have the same network.

    Args:
      records: rows as in `records.jsonl`, in nats, of one plane or both.
      layers: names in the order of depth.
      class_entropy_nats: H(Y).

    Returns:
      A mapping that JSON can hold: `inequality` (a row for each test of deterministic layers),
      `above_bracket`, `below_bracket`, `moved_between_epochs`, `moved_between_layers`,
      `at_ceiling`, `not_converged`, `out_of_range` (negative, or of Y above H(Y), by more than 2
      standard errors), `not_finite`, `from_later_network`, `lost_axes` (rows that name a record)
      and `sentences`.
    """
    epochs = sorted({row["epoch"] for row in records})
    finite = [row for row in records if None not in (row["mi_nats"], row["stderr"])]
    by_place = {_place(row): row for row in finite}
    steps = [step for row in finite if (step := _step(row, epochs)) is not None]
    drops = [drop for row in finite if (drop := _drop(row, by_place, layers)) is not None]
    tests = [_test(*drop) for drop in drops if drop[0]["plane"] == DETERMINISTIC]
    differences = [_difference(*drop) for drop in drops if not _same_network(*drop)]
    observed = [row for row in finite if row["plane"] == OBSERVED]
    result = {
        "inequality": tests,
        "above_bracket": [_beside_bracket(row) for row in observed if _above(row)],
        "below_bracket": [_beside_bracket(row) for row in observed if _below(row)],
        "moved_between_epochs": [step for step in steps if _moved(step, "change_nats")],
        "moved_between_layers": [drop for drop in differences if _moved(drop, "drop_nats")],
        "at_ceiling": [_name(row) for row in finite if _at_ceiling(row)],
        "not_converged": [_name(row) for row in finite if not row["converged"]],
        "out_of_range": [
            _columns(row, "mi_nats", "stderr")
            for row in finite
            if _out_of_range(row, class_entropy_nats)
        ],
        "not_finite": [_name(row) for row in records if _place(row) not in by_place],
        "from_later_network": [
            _columns(row, "network", "mi_nats", "own_nats")
            for row in finite
            if row["plane"] == DETERMINISTIC
            if row.get("network") not in (None, row["layer"])
        ],
        "lost_axes": [
            _columns(row, "num_axes", "lost_nats")
            for row in finite
            if row["variable"] == "x" and (row.get("lost_nats") or 0.0) > MAX_LOST_NATS
        ],
    }
    sentences = []
    if observed:
        sentences += [_KNOWN, _NO_CHAIN, *_brackets(observed, result)]
        sentences += _movements(steps, differences, OBSERVED)
    if len(finite) > len(observed):
        sentences += [_UNKNOWN, _CHAIN, *_chain(result, len(finite) - len(observed))]
        sentences += _movements(steps, differences, DETERMINISTIC)
    return result | {"sentences": sentences + _limits(result, records, class_entropy_nats)}


def _place(row: Row) -> tuple[Any, ...]:
    return row["plane"], row["seed"], row["epoch"], row["variable"], row["layer"]


def _name(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("plane", "seed", "epoch", "layer", "variable")}


def _columns(row: Row, *columns: str) -> dict[str, Any]:
    return _name(row) | {name: row.get(name) for name in columns}


def _beside_bracket(row: Row) -> dict[str, Any]:
    sides = [
        f"{kind}_{unit}"
        for side in ("low", "high")
        for kind in (f"reference_{side}", f"{side}_difference")
        for unit in ("nats", "stderr")
    ]
    return _columns(row, "mi_nats", "stderr", *sides)


# ---- What is tested ------------------------------------------------------------------------------


def _step(row: Row, epochs: Sequence[int]) -> dict[str, Any] | None:
    """Return the change since the probe before, if it is known."""
    at = epochs.index(row["epoch"])
    change, stderr = row.get("change_nats"), row.get("change_stderr")
    if at == 0 or change is None or stderr is None:
        return None
    return {name: row[name] for name in ("plane", "seed", "variable", "layer")} | {
        "from_epoch": epochs[at - 1],
        "to_epoch": row["epoch"],
        "change_nats": change,
        "stderr": stderr,
    }


def _drop(
    row: Row, by_place: Mapping[tuple[Any, ...], Row], layers: Sequence[str]
) -> tuple[Row, Row] | None:
    """Return the rows of the layer before and of this layer, if the drop is known."""
    depth = layers.index(row["layer"])
    if depth == 0 or row["drop_nats"] is None or row["drop_stderr"] is None:
        return None
    earlier = by_place.get((*_place(row)[:-1], layers[depth - 1]))
    return None if earlier is None else (earlier, row)


def _difference(earlier: Row, later: Row) -> dict[str, Any]:
    return {name: later[name] for name in ("plane", "seed", "epoch", "variable")} | {
        "earlier": earlier["layer"],
        "later": later["layer"],
        "drop_nats": later["drop_nats"],
        "stderr": later["drop_stderr"],
    }


def _same_network(earlier: Row, later: Row) -> bool:
    return later.get("network") is not None and earlier.get("network") == later["network"]


def _test(earlier: Row, later: Row) -> dict[str, Any]:
    """Test the data-processing inequality: as reported, and between the layers' own networks."""
    drop, stderr = later["drop_nats"], later["drop_stderr"]
    errors = drop / stderr if stderr > 0 else math.copysign(math.inf, drop) if drop else 0.0
    own = _own_drop(earlier, later)
    same = _same_network(earlier, later)
    return _difference(earlier, later) | {
        "standard_errors": errors if math.isfinite(errors) else None,
        "held": None if same else errors >= -SIGNIFICANT,
        "same_network": same,
        "own_drop_nats": own and own[0],
        "own_stderr": own and own[1],
        "own_held": own and own[0] >= -SIGNIFICANT * own[1],
    }


def _own_drop(earlier: Row, later: Row) -> tuple[float, float] | None:
    """Return the drop between the layers' own networks, and its standard error, if known."""
    drop, stderr = later.get("own_drop_nats"), later.get("own_drop_stderr")
    if drop is not None and stderr is not None:
        return drop, stderr
    before, after = earlier.get("own_nats"), later.get("own_nats")
    if before is None or after is None:
        return None
    return before - after, math.hypot(earlier["stderr"], later["stderr"])


def _moved(row: Row, column: str) -> bool:
    return abs(row[column]) > CLEAR * row["stderr"]


def _at_ceiling(row: Row) -> bool:
    upper, ceiling = row["mi_nats"] + SIGNIFICANT * row["stderr"], row.get("ceiling_nats")
    near = ceiling is not None and upper > ceiling - CEILING_MARGIN
    return near or any(text.startswith("Near the ceiling") for text in row.get("warnings", ()))


def _out_of_range(row: Row, class_entropy_nats: float) -> bool:
    margin = SIGNIFICANT * row["stderr"]
    above = row["variable"] == "y" and row["mi_nats"] > class_entropy_nats + margin
    return above or row["mi_nats"] < -margin


def _beside(row: Row, side: str) -> tuple[float, float] | None:
    """Return the estimate minus a side of its bracket, and its standard error, if known."""
    difference, stderr = row.get(f"{side}_difference_nats"), row.get(f"{side}_difference_stderr")
    return None if difference is None or stderr is None else (difference, stderr)


def _above(row: Row) -> bool:
    beside = _beside(row, "high")
    return beside is not None and beside[0] > CLEAR * beside[1]


def _below(row: Row) -> bool:
    beside, low = _beside(row, "low"), row.get("reference_low_nats")
    if beside is None or low is None:
        return False
    # Near 0 the sampling error alone is more than that fraction.
    return -beside[0] > max(BELOW_FRACTION[row["variable"]] * low, SIGNIFICANT * beside[1])


def _relative(row: Row) -> float | None:
    """Return the distance from the low side as a fraction of it, where that is clearly not 0."""
    beside, low = _beside(row, "low"), row.get("reference_low_nats")
    if beside is None or low is None:
        return None
    return beside[0] / low if low > CLEAR * (row.get("reference_low_stderr") or 0.0) else None


# ---- In words ------------------------------------------------------------------------------------


def _brackets(observed: Sequence[Row], result: Mapping[str, Any]) -> list[str]:
    """Say how wide the brackets are, and where the estimates lie beside them."""
    sentences, widths = [], []
    for variable, symbol in _SYMBOL.items():
        rows = [row for row in observed if row["variable"] == variable]
        sides = [(row.get("reference_low_nats"), row.get("reference_high_nats")) for row in rows]
        wide = [high - low for low, high in sides if low is not None and high is not None]
        if wide:
            widths.append(
                f"{statistics.median(wide):.3f} nats wide for I({symbol};T) (median of "
                f"{len(wide)}; at most {max(wide):.3f})"
            )
        for side, claim in (
            ("above", f"{CLEAR:.0f} standard errors above the high side"),
            (
                "below",
                f"{BELOW_FRACTION[variable]:.0%} and {SIGNIFICANT:.0f} standard errors below the "
                "low side",
            ),
        ):
            beside = "high" if side == "above" else "low"
            known = sum(_beside(row, beside) is not None for row in rows)
            outside = [row for row in result[f"{side}_bracket"] if row["variable"] == variable]
            of = f"of {known} estimates of I({symbol};T)"
            if outside:
                text = f"more than {claim} of the bracket: {_list(outside)}"
                sentences.append(f"{len(outside)} {of} {_are(len(outside))} {text}.")
            elif known:
                sentences.append(f"None {of} is more than {claim} of its bracket.")
        sentences += _distances(rows, symbol)
    return [f"The brackets are {' and '.join(widths)}.", *sentences] if widths else sentences


def _distances(rows: Sequence[Row], symbol: str) -> list[str]:
    """Say where the estimates of a variable lie relative to the low side of their brackets."""
    relative = [(value, row) for row in rows if (value := _relative(row)) is not None]
    if not relative:
        return []
    median = statistics.median(value for value, _ in relative)
    least, row = min(relative, key=lambda pair: pair[0])
    nats, stderr = row["low_difference_nats"], row["low_difference_stderr"]
    return [
        f"Relative to the low side, where that is more than {CLEAR:.0f} standard errors above 0, "
        f"the estimates of I({symbol};T) lie {_side(median)} it (median of {len(relative)}); the "
        f"lowest lies {_side(least)} it ({row['layer']} at epoch {row['epoch']}, difference "
        f"{nats:.3f} ± {stderr:.3f} nats)."
    ]


def _side(fraction: float) -> str:
    return f"{abs(fraction):.1%} {'below' if fraction < 0 else 'above'}"


def _chain(result: Mapping[str, Any], count: int) -> list[str]:
    """Say how far the deterministic layers keep to the data-processing inequality."""
    sentences = []
    for variable, symbol in _SYMBOL.items():
        tests = [test for test in result["inequality"] if test["variable"] == variable]
        if tests:
            sentences.append(_inequality(tests, symbol))
    if result["from_later_network"]:
        number = len(result["from_later_network"])
        sentences.append(
            f"{number} of {count} values of deterministic layers "
            f"{'comes' if number == 1 else 'come'} from a later layer's statistics network, which "
            "is also a valid one for the earlier layer: on the validation samples the earlier "
            "layer's own network was not better by a standard error."
        )
    return sentences


def _inequality(tests: Sequence[Row], symbol: str) -> str:
    """Say in how many tests the inequality held: by own networks, and as reported."""
    by_own = [test for test in tests if test["own_held"] is not None]
    reported = [test for test in tests if not test["same_network"]]
    shared = len(tests) - len(reported)
    claim = f"the data-processing inequality of I({symbol};L) held in"
    parts = []
    if by_own:
        breaks = _breaks([test for test in by_own if not test["own_held"]], "own_drop_nats")
        held = sum(test["own_held"] for test in by_own)
        parts.append(f"With each layer's own network {claim} {held} of {len(by_own)} tests{breaks}")
    if shared or not by_own:
        breaks = _breaks([test for test in reported if not test["held"]], "drop_nats")
        held = sum(test["held"] for test in reported)
        text = f"{claim} {held} of {len(reported)} tests{breaks}"
        if shared:
            text = f"as reported, with values taken from later networks, {text}; {shared} more"
            text += f" {'is' if shared == 1 else 'are'} equal by construction and no test"
        parts.append(text[0].upper() + text[1:])
    return f"{'. '.join(parts)}."


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


def _movements(steps: Sequence[Row], differences: Sequence[Row], plane: str) -> list[str]:
    """Count for each variable the changes between probes and between layers beyond the error."""
    errors = f"by more than {CLEAR:.0f} standard errors of the paired difference"
    sentences = []
    for variable, symbol in _SYMBOL.items():
        kind = "lower bound" if plane == DETERMINISTIC else "estimate"
        value = f"the {kind} of I({symbol};{_VALUE[plane]})"
        changes: dict[str, list[Row]] = {}
        for row in steps:
            if (row["plane"], row["variable"]) == (plane, variable):
                changes.setdefault(row["layer"], []).append(row)
        if changes:
            counts = [_count(name, rows, "change_nats", 1) for name, rows in changes.items()]
            sentences.append(
                f"From one probe to the next, {value} changed {errors}: {'; '.join(counts)}."
            )
        drops: dict[str, list[Row]] = {}
        for row in differences:
            if (row["plane"], row["variable"]) == (plane, variable):
                drops.setdefault(f"{row['earlier']} → {row['later']}", []).append(row)
        if drops:
            counts = [_count(name, rows, "drop_nats", -1) for name, rows in drops.items()]
            where = " (where they have different networks)" if plane == DETERMINISTIC else ""
            sentences.append(
                f"From one layer to the next{where}, {value} differed {errors}: "
                f"{'; '.join(counts)}."
            )
    return sentences


def _count(name: str, rows: Sequence[Row], column: str, sign: int) -> str:
    moved = [sign * row[column] for row in rows if _moved(row, column)]
    up = sum(value > 0 for value in moved)
    ways = f" ({up} up, {len(moved) - up} down)" if moved else ""
    return f"{name} in {len(moved)} of {len(rows)}{ways}"


def _limits(
    result: Mapping[str, Any], records: Sequence[Row], class_entropy_nats: float
) -> list[str]:
    """Say of how many values of both planes something limits the use."""
    sentences = []
    for name, text in (
        ("at_ceiling", "less than a nat below the ceiling; the true values may be far higher"),
        ("not_converged", "not converged at the limit of steps"),
        ("not_finite", "not finite"),
        ("out_of_range", f"beyond [0, H(Y) = {class_entropy_nats:.3f} nats] by 2 standard errors"),
    ):
        rows = result[name]
        if rows:
            count = f"{len(rows)} of {len(records)} values {_are(len(rows))}"
            sentences.append(f"{count} {text}: {_list(rows)}.")
    if result["lost_axes"]:
        rows = result["lost_axes"]
        most = max(row["lost_nats"] for row in rows)
        sentences.append(
            f"In {len(rows)} of {len(records)} values the axes that the network does not see may "
            f"hold more than {MAX_LOST_NATS} nats, at most {most:.2f}: {_list(rows)}."
        )
    beyond = {row["plane"] for row in result["out_of_range"] if row["variable"] == "y"}
    planes = {row["plane"] for row in records if row["variable"] == "y"} - beyond
    within = " and ".join(f"I(Y;{_VALUE[plane]})" for plane in _VALUE if plane in planes)
    if within:
        limits = f"[0, H(Y) = {class_entropy_nats:.3f} nats]"
        sentences.append(f"Every {within} lies within {limits} up to 2 standard errors.")
    return sentences


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _list(rows: Sequence[Row], limit: int = 6) -> str:
    """Return the records in words, such as I(X;T) of conv1 at epoch 0, 4."""
    epochs: dict[str, list[int]] = {}
    for row in rows:
        value = f"I({_SYMBOL[row['variable']]};{_VALUE[row['plane']]}) of {row['layer']}"
        epochs.setdefault(value, []).append(row["epoch"])
    parts = []
    for name, where in epochs.items():
        where = sorted(set(where))
        shown = ", ".join(map(str, where[:limit])) + (", …" if len(where) > limit else "")
        parts.append(f"{name} at epoch {shown}")
    return "; ".join(parts)
