"""Encoders that compete for the samples of two variables: several ways to prepare them."""

from collections.abc import Callable

import flax.linen as nn
import numpy as np
from numpy.typing import NDArray

from mine_jax.estimate.canonical import MAX_DIRECTIONS, canonical_columns
from mine_jax.estimate.image_moments import flattened_shape, image_shape
from mine_jax.estimate.pairs import Pair
from mine_jax.estimate.preparation import (
    MAX_RANKED_COLUMNS,
    NUM_COMPONENTS,
    clip_outlying_rows,
    on_device,
    prepare,
    principal_axes,
    scale_jointly,
    shared_axes,
)
from mine_jax.estimate.splitting import Splits
from mine_jax.estimate.variables import Variable, row_codes
from mine_jax.mine import MineConfig, Samples

OnStage = Callable[[str], None]

NUM_WHITE_COMPONENTS = 200  # of patch features
NUM_GRAPH_COMPONENTS = 50  # in whose space samples have their neighbors
WHITENING = 0.1  # of the mean variance of these components, added to each
MAX_CANONICAL_COLUMNS = 1024  # of more columns the first so many principal components
BASE = {"images": "moments", "many columns": "components", "columns": "ranks", "labels": "labels"}
SAME = 0.999  # from this correlation with standardized columns on, normal scores do not compete
MIN_SHARE = 0.9  # of the variance of many columns in their components; less is reported


def candidates(
    x: Variable,
    z: Variable,
    rows: Splits,
    names: tuple[str, str],
    config: MineConfig,
    on_stage: OnStage = lambda text: None,
    every: bool = False,
) -> list[Pair]:
    """Prepare the samples of two variables in all the ways that suit them, for a competition.

    | samples | encoders |
    |---|---|
    | images | moments beside principal components; these alone; patch features; eigenmaps |
    | more than `MAX_RANKED_COLUMNS` columns | principal components; eigenmaps of these |
    | columns | standardized columns, logarithmic in the tails; normal scores, if they differ |
    | columns beside labels | both of these at once, with two and with three hidden layers |
    | more than `MAX_DIRECTIONS` columns, beside several others | canonical directions |
    | labels | one-hot columns; numbers of few values as numbers, too |

    Where both sides are images, or many columns, of one shape, they are encoded alike, and networks
    whose sides share layers compete as well.

    Args:
      x: (n, …).
      z: (n, …).
      rows: the split, for what is learned from the training samples of a fold.
      names: of both, for messages.
      config: `x_encoder`, `z_encoder` and `shared` leave fewer candidates.
      on_stage: told of what takes long, before it begins.
      every: leave out none that only costs time, as a warm start may be of one.

    Returns:
      Pairs with different `encoder`s; labels are on the side of z.

    Raises:
      ValueError: if an encoder of the configuration is not one for these samples.
    """
    wanted = config.x_encoder, config.z_encoder
    if x.kind == "labels" and z.kind != "labels":
        x, z, names, wanted = z, x, names[::-1], wanted[::-1]
    if any(_is_trained(encoder) for encoder in wanted):
        return [_trained(x, z, names, wanted)]
    kinds = _kind(x), _kind(z)
    free = wanted == ("auto", "auto") and not every
    alike = x.values.shape == z.values.shape and kinds[0] == kinds[1] != "labels"
    pairs = _prepared(x, z, kinds, names)
    if free and kinds == ("columns", "columns") and _are_normal(*pairs):
        pairs = [pair for pair in pairs if pair.encoder == "standardized"]
    pairs += _learned(x, z, kinds, names, alike, on_stage)
    if _have_directions(x, z, kinds, free):
        on_stage(f"canonical directions of {names[0]} and {names[1]}")
        pairs.append(_canonical(x, z, kinds, names, rows))
    if any(side.numbers is not None for side in (x, z)):
        pairs.append(_as_numbers(x, z, names))
    if kinds == ("columns", "labels"):  # products of columns want one layer more
        pairs.append(pairs[0]._replace(encoder="both, deep", overrides=(("depth", 3),)))
    if alike and kinds[0] != "columns":
        shared = ("shared", True)
        pairs += [
            each._replace(encoder=f"{each.encoder}, shared", overrides=(shared,)) for each in pairs
        ]
    for encoder, side, name in zip(wanted, (x, z), names, strict=True):
        names_of = [_names_of(pair)[side is z] for pair in pairs]
        if encoder != "auto" and side.kind != "labels":
            pairs = [pair for pair, of in zip(pairs, names_of, strict=True) if of == encoder]
            if not pairs:
                raise ValueError(
                    f"the encoder of {name} must be one of {tuple(dict.fromkeys(names_of))} for "
                    f'these samples, "convolutional" for images, or a Flax module; got {encoder!r}'
                )
    if config.shared != "auto":
        pairs = [pair for pair in pairs if (("shared", True) in pair.overrides) == config.shared]
        if not pairs:
            raise ValueError(
                "shared must be False for x and z of different kinds or shapes, or of few columns"
            )
    pixels = tuple(
        f"The columns of {name} seem to be the pixels of images; if so, pass it as (n, "
        f"{', '.join(map(str, shape))}), as encoders of images see more."
        for side, kind, name in zip((x, z), kinds, names, strict=True)
        if free and kind == "many columns" and (shape := flattened_shape(side.values)) is not None
    )
    return [pair._replace(warnings=pair.warnings + pixels) for pair in pairs]


def _is_trained(encoder: str | nn.Module) -> bool:
    return encoder == "convolutional" or isinstance(encoder, nn.Module)


def _trained(
    x: Variable, z: Variable, names: tuple[str, str], wanted: tuple[str | nn.Module, ...]
) -> Pair:
    """Return a pair whose encoder of a side is trained with the statistics network."""
    arrays = []
    for side, name, encoder in zip((x, z), names, wanted, strict=True):
        trained = _is_trained(encoder)
        if not trained and encoder != "auto":
            raise ValueError(
                f'the encoder of {name} must be "auto" or trained, as that of the other side is '
                f"trained; got {encoder!r}"
            )
        if encoder == "convolutional" and image_shape(side.shape, told=True) is None:
            raise ValueError(
                f'"convolutional" takes images, (n, h, w) or (n, h, w, c), but {name} has the '
                f"shape {side.shape}; reshape it or choose another encoder"
            )
        values = side.values.reshape(side.shape) if trained else side.values
        arrays.append(prepare(values, name, keep_shape=trained))
    modules = tuple(encoder if isinstance(encoder, nn.Module) else "auto" for encoder in wanted)
    overrides = (
        ("network", "separable"),
        *zip(("x_encoder", "z_encoder"), modules, strict=True),
    )
    left, right = map(Samples, arrays)
    return Pair(left, right, encoder="trained", overrides=overrides)


def _kind(variable: Variable) -> str:
    """Return "images", "many columns", "columns" or "labels"."""
    if variable.kind == "columns" and variable.values.shape[1] > MAX_RANKED_COLUMNS:
        return "many columns"
    return variable.kind


def _prepared(
    x: Variable, z: Variable, kinds: tuple[str, str], names: tuple[str, str]
) -> list[Pair]:
    """Return what `prepare` does to both sides, with one or two scales of columns."""
    scales = {_name(*(BASE[kind] for kind in kinds)): "auto"}
    if kinds == ("columns", "labels"):
        scales = {"both": "both"}
    if kinds == ("columns", "columns"):
        scales["standardized"] = "columns"
    axes = shared_axes(x.values, z.values, names)
    pairs = []
    for encoder, scale in scales.items():
        left, right = (
            prepare(side.values, name, scale, axes=axes)
            for side, name in zip((x, z), names, strict=True)
        )
        if kinds[0] == "labels":
            left = on_device(np.asarray(left, np.float32))
        pairs.append(Pair(Samples(left), Samples(right), encoder=encoder))
    lost = [
        f"{name} is reduced to principal components with {100 * share:.0f} % of its variance; what "
        "the others tell is lost."
        for side, kind, name in zip((x, z), kinds, names, strict=True)
        if kind == "many columns" and (share := _share(side.values, name, axes)) < MIN_SHARE
    ]
    pairs = [pair._replace(warnings=tuple(lost)) for pair in pairs]
    if "images" in kinds:
        flat = [
            side._replace(values=side.values.reshape(len(side.values), -1), kind="columns")
            if kind == "images"
            else side
            for side, kind in zip((x, z), kinds, strict=True)
        ]
        pairs += _prepared(flat[0], flat[1], (_kind(flat[0]), _kind(flat[1])), names)[:1]
    return pairs


def _are_normal(ranks: Pair, standardized: Pair) -> bool:
    """Tell whether columns are normal by themselves: scores would only add the noise of ranks."""
    for scores, columns in zip(ranks.of_fold(0), standardized.of_fold(0), strict=True):
        # Both have unit variance; constant columns are zero.
        difference = np.asarray(scores.measured) - np.asarray(columns.measured)
        if np.square(difference).mean(axis=0).max() > 2 * (1 - SAME):
            return False
    return True


def _name(of_x: str, of_z: str) -> str:
    """Return the name of a pair's encoders: of both sides where they differ, labels aside."""
    return of_x if of_z in (of_x, "labels") else f"{of_x} / {of_z}"


def _names_of(pair: Pair) -> tuple[str, str]:
    """Return the names of the encoders of x and of z."""
    of_x, *of_z = pair.encoder.split(",")[0].split(" / ")
    return of_x, (of_z or [of_x])[0]


def _as_numbers(x: Variable, z: Variable, names: tuple[str, str]) -> Pair:
    """Return a pair with labels that are numbers as such."""
    x, z = (
        side if side.numbers is None else Variable(side.numbers, "columns", side.numbers.shape)
        for side in (x, z)
    )
    if x.kind == "labels":
        x, z, names = z, x, names[::-1]
    return _prepared(x, z, (_kind(x), _kind(z)), names)[0]._replace(encoder="numbers")


def _share(columns: NDArray, name: str, axes: NDArray | None) -> float:
    """Return the share of the variance in the principal components that are kept."""
    scaled = _scaled(columns, name)
    kept = principal_axes(scaled, NUM_COMPONENTS) if axes is None else np.linalg.qr(axes)[0]
    total = np.sum(np.square(scaled))
    return float(np.sum(np.square(scaled @ kept)) / total) if total > 0 else 1.0


def _learned(
    x: Variable,
    z: Variable,
    kinds: tuple[str, str],
    names: tuple[str, str],
    alike: bool,
    on_stage: OnStage,
) -> list[Pair]:
    """Return pairs with features of images, and eigenmaps, learned from all samples of a side.

    The pairing of samples has no part in it. Sides that are alike are encoded together; a side
    that has no such encoders stays as `prepare` returns it.
    """
    found: list[dict[str, NDArray]]
    if alike:
        features = _features(
            np.concatenate([x.values, z.values]), kinds[0], " and ".join(names), on_stage
        )
        halves = {encoder: np.split(array, 2) for encoder, array in features.items()}
        found = [{encoder: half[i] for encoder, half in halves.items()} for i in (0, 1)]
    else:
        found = [
            _features(side.values, kind, name, on_stage)
            for side, kind, name in zip((x, z), kinds, names, strict=True)
        ]
    encoders = list(dict.fromkeys([*found[0], *found[1]]))
    sides = []
    for features, side, name in zip(found, (x, z), names, strict=True):
        if features:
            of_side = [features.get(encoder, features["eigenmaps"]) for encoder in encoders]
        else:
            of_side = [np.asarray(prepare(side.values, name))] * len(encoders) if encoders else []
        sides.append([Samples(on_device(array)) for array in of_side])
    named = [
        [each if each in features else "eigenmaps" if features else BASE[kind] for each in encoders]
        for features, kind in zip(found, kinds, strict=True)
    ]
    return [
        Pair(left, right, encoder=_name(*of_sides))
        for left, right, *of_sides in zip(*sides, *named, strict=True)
    ]


def _features(values: NDArray, kind: str, name: str, on_stage: OnStage) -> dict[str, NDArray]:
    """Return the encodings of one side by the names of their encoders."""
    if kind not in ("images", "many columns"):
        return {}
    # Here, as scikit-learn takes a second to import.
    from mine_jax.estimate.eigenmaps import eigenmaps
    from mine_jax.estimate.patch_features import patch_features

    # Rounding would tell equal rows apart, and eigenmaps enlarge that.
    codes = row_codes(values)
    first = np.unique(codes, return_index=True)[1]
    different = values if len(first) == len(values) else values[first]
    if kind == "images":
        images = different if different.ndim == 4 else different[..., None]
        on_stage(f"patch features of {name}")
        features = patch_features(images)
        patches = _whiten(features, NUM_WHITE_COMPONENTS)
        on_stage(f"eigenmaps of {name}")
        found = {
            "patches": patches,
            "eigenmaps": eigenmaps(_whiten(features, NUM_GRAPH_COMPONENTS)),
        }
    else:
        on_stage(f"eigenmaps of {name}")
        scaled = _scaled(different, name)
        found = {"eigenmaps": eigenmaps(scaled @ principal_axes(scaled, NUM_GRAPH_COMPONENTS))}
    return {encoder: encoded[codes] for encoder, encoded in found.items()}


def _whiten(features: NDArray, count: int) -> NDArray:
    """Return principal components of nearly equal variance, (n, at most `count`)."""
    centered = features - features.mean(axis=0)
    components = centered @ principal_axes(centered, count)
    variances = np.square(components).mean(axis=0)
    return components / np.sqrt(variances + WHITENING * variances.mean() + 1e-30)


def _scaled(columns: NDArray, name: str) -> NDArray:
    return scale_jointly(clip_outlying_rows(columns, name), name)


def _have_directions(x: Variable, z: Variable, kinds: tuple[str, str], free: bool) -> bool:
    """Tell whether canonical directions may help: of few columns networks find them as well."""
    if "images" in kinds or kinds[0] == "labels" or kinds == ("columns", "labels"):
        return False
    widths = [side.values.shape[1] for side in (x, z) if side.kind != "labels"]
    return min(widths) > 1 and (max(widths) > MAX_DIRECTIONS or not free)


def _canonical(
    x: Variable, z: Variable, kinds: tuple[str, str], names: tuple[str, str], rows: Splits
) -> Pair:
    """Return a pair with the canonical directions of each fold."""
    sides = []
    for side, kind, name in zip((x, z), kinds, names, strict=True):
        if kind != "many columns":
            sides.append(np.asarray(prepare(side.values, name), np.float32))
            continue
        scaled = _scaled(side.values, name)
        if scaled.shape[1] > MAX_CANONICAL_COLUMNS:
            scaled = scaled @ principal_axes(scaled, MAX_CANONICAL_COLUMNS)
        sides.append(scaled)
    found = canonical_columns(sides[0], sides[1], rows.train, rows.validation)
    left, right = zip(*found, strict=True)
    of_x = tuple(Samples(on_device(columns)) for columns in left)
    if kinds[1] == "labels":
        return Pair(of_x, Samples(prepare(z.values, names[1])), encoder="canonical")
    return Pair(of_x, tuple(Samples(on_device(c)) for c in right), encoder="canonical")
