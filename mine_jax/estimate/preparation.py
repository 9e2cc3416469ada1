"""Samples as statistics networks take them: normal scores, principal components, labels."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from mine_jax.estimate.image_moments import ELLIPTICITY, NUM_MOMENTS, image_shape, moments

MAX_LABELS = 1000  # a one-hot column for each distinct label has to stay affordable
MAX_RANKED_COLUMNS = 128  # of more columns only principal components are kept
NUM_COMPONENTS = 20  # principal components that are kept
SCALES = ("auto", "ranks", "columns", "both", "common", "standardized")
MAX_LINEAR = 4.0  # standard deviations up to which scale="columns" is linear
MAX_DISTANCE = 10.0  # of a row from the center, in median distances; rows beyond are clipped
MEDIAN_ROWS = 1000  # number of rows that give the median of each of many columns
OVERSAMPLING = 12  # probes of the range finder beyond the number of axes
BLOCK_ELEMENTS = 1 << 16  # numbers in a block of rows: float64 blocks fit into the cache
MIN_DEVIATION = 1e-12  # of normal scores; those of constant columns have less, from rounding


def prepare(
    values: ArrayLike,
    name: str = "x",
    scale: str = "auto",
    *,
    keep_shape: bool = False,
    align_to: ArrayLike | None = None,
    axes: ArrayLike | None = None,
) -> Array:
    """Turn samples of one variable into the input of a statistics network.

    * Integers or booleans in one column are codes of labels and become one-hot columns. Whether
      they are codes or numbers is not decided here but by `variables.read_variable`.
    * Up to `MAX_RANKED_COLUMNS` columns become normal scores: a rank-based inverse normal transform
      of each column, ties at their mean rank. It is strictly increasing, so that it preserves the
      mutual information, and it limits heavy tails and outliers. Constant columns become zero.
    * More columns, and images, are centered and divided by one number, which preserves the geometry
      between columns. Rows much farther from the median than the others are clipped. The first
      `NUM_COMPONENTS` principal components are kept. For images, `moments` (as normal scores except
      the ellipticity) are put before them. This can only lower the mutual information, so that
      bounds remain lower bounds.

    Images are (n, h, w, c) or (n, h, w) with at least 8 x 8 pixels and at most 4 channels, see
    `image_shape`. Vectors are never taken for images: reshape (n, 784) to (n, 28, 28) to use the
    moments of images of 28 x 28 pixels.

    The statistics of this transform are those of all samples of one variable. They do not depend
    on how the samples of two variables are paired.

    Args:
      values: (n, ...).
      name: name of the variable in error messages.
      scale: "auto" as above, or one of "ranks" (normal scores), "standardized" (unit variance for
        each column), "columns" (the same, logarithmic beyond `MAX_LINEAR` standard deviations),
        "both" (the columns of "ranks", then those of "columns") and "common" (all columns divided
        by one number). With "auto" and "both", principal components replace many columns and
        images.
      keep_shape: return images, from 4 x 4 pixels on, as (n, h, w, c) and many columns as they
        are, clipped and scaled, instead of principal components.
      align_to: (n, k), the target that principal components are rotated to, see
        `procrustes_rotation`.
      axes: (columns, k), axes to use in place of the principal axes of `values`, see `shared_axes`.

    Returns:
      (n, features) or (n, h, w, c), float32; for labels (n, classes), one-hot, uint8.

    Raises:
      ValueError: if there are no samples or columns, values are not real and finite, there are
        more than `MAX_LABELS` labels, `scale` is unknown, or `align_to` or `axes` do not fit.
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {SCALES}, got {scale!r}")
    values = np.asarray(values)
    columns = _float_columns(values, name)
    images = image_shape(values.shape, told=keep_shape)
    reduced = scale in ("auto", "both") and _is_reduced(values.shape, told=keep_shape)
    num_rows = columns.shape[1] if axes is None else np.shape(axes)[0]
    if axes is not None and (keep_shape or not reduced or num_rows != columns.shape[1]):
        raise ValueError(
            f"axes of {num_rows} columns do not fit {name} of shape {values.shape}: they replace "
            f"the principal axes of images and of more than {MAX_RANKED_COLUMNS} columns"
        )
    if values.dtype.kind in "biu" and columns.shape[1] == 1:
        return one_hot(values.ravel(), name)
    if not reduced:
        if scale == "common":
            return on_device(scale_jointly(columns, name))
        transforms = {
            "columns": [_standardize_robustly],
            "both": [normal_scores, _standardize_robustly],
            "standardized": [_standardize],
        }
        blocks = [transform(columns, name) for transform in transforms.get(scale, [normal_scores])]
        prepared = on_device(np.concatenate(blocks, axis=1, dtype=np.float32))
        return prepared.reshape(images) if keep_shape and images is not None else prepared
    columns = clip_outlying_rows(columns, name)
    scaled = scale_jointly(columns, name)
    if keep_shape:
        return on_device(scaled if images is None else scaled.reshape(images))
    if axes is None:
        axes = principal_axes(scaled, NUM_COMPONENTS)
    components = scaled @ np.asarray(axes, np.float32)
    # One number for all: a component keeps its share of the variance.
    components /= np.sqrt(np.mean(np.square(components)) + 1e-30)
    if align_to is not None:
        components = components @ procrustes_rotation(components, align_to)
    if images is None:
        return on_device(components)
    features = moments(columns.reshape(images))
    ranked = np.delete(np.arange(NUM_MOMENTS), ELLIPTICITY)
    features[:, ranked] = normal_scores(features[:, ranked], name)
    return on_device(np.concatenate([features, components], axis=1, dtype=np.float32))


def on_device(array: np.ndarray) -> Array:
    """Return an array in JAX, numbers as float32, compiling nothing for each n.

    JAX would compile a change of type or of order, and `jnp.asarray` for each shape.
    """
    dtype = np.uint8 if array.dtype == np.uint8 else np.float32
    return jax.device_put(np.ascontiguousarray(array, dtype))


def prepared_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the shape of `prepare(values)` for floats of a given shape, computing nothing.

    Args:
      shape: shape of the samples, (n, ...).
    """
    n, columns = shape[0], math.prod(shape[1:])
    if not _is_reduced(shape):
        return n, columns
    num_moments = NUM_MOMENTS if image_shape(shape) else 0
    return n, num_moments + min(NUM_COMPONENTS, n, columns)


def as_labels(values: ArrayLike) -> np.ndarray:
    """Turn one-hot columns, (n, classes), into labels, (n,); return other samples as they are."""
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] < 2 or values.dtype.kind not in "biuf":
        return values
    for rows in (values[:1000], values):  # the first rows rule out nearly all other data
        if not (np.all((rows == 0) | (rows == 1)) and np.all(rows.sum(axis=1) == 1)):
            return values
    return np.argmax(values, axis=1)


def shared_axes(
    x: ArrayLike, z: ArrayLike, names: tuple[str, str] = ("x", "z")
) -> np.ndarray | None:
    """Compute principal axes for two variables with the same columns, such as z = x + noise.

    Strong noise in hundreds of columns dominates the principal components of the noisy variable;
    those of the other variable, taken of both, show what is shared. Variables that only have the
    number of columns in common lose little, because each keeps its own components.

    Args:
      x: (n, ...).
      z: (n, ...).
      names: names of the variables in error messages.

    Returns:
      The first `NUM_COMPONENTS` principal axes of x, then those of z, (columns, 2 k); None if the
      shapes differ or `prepare` keeps all columns. The pairing of the samples has no influence.

    Raises:
      ValueError: if values are not real and finite.
    """
    sides = np.asarray(x), np.asarray(z)
    sizes = {(len(side), math.prod(side.shape[1:])) for side in sides if side.ndim}
    if len(sizes) != 1 or not all(_is_reduced(side.shape) for side in sides):
        return None
    axes = []
    for values, name in zip(sides, names, strict=True):
        columns = clip_outlying_rows(_float_columns(values, name), name)
        axes.append(principal_axes(scale_jointly(columns, name), NUM_COMPONENTS))
    return np.concatenate(axes, axis=1)


def principal_axes(columns: ArrayLike, count: int) -> np.ndarray:
    """Compute the first principal axes of centered samples by a randomized range finder.

    See Halko, Martinsson and Tropp 2011, "Finding structure with randomness"; with a fixed seed and
    two power iterations. NumPy, as JAX would compile it for each shape. Of 20,000 x 4,704 samples
    it is quicker than scikit-learn's `randomized_svd`, which also orthogonalizes the longer side.

    Args:
      columns: (n, d), centered.
      count: number of axes.

    Returns:
      Orthonormal axes, (d, min(count, n, d)), float32, the largest variance first.
    """
    columns = np.asarray(columns, np.float32)
    num_probes = min(count + OVERSAMPLING, *columns.shape)
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((columns.shape[1], num_probes), np.float32)
    for _ in range(3):
        basis, _ = np.linalg.qr(columns.T @ (columns @ basis))
    projected = columns @ basis
    _, rotation = np.linalg.eigh(projected.T @ projected)  # ascending
    return basis @ rotation[:, : -count - 1 : -1]


def principal_components(values: ArrayLike, count: int, name: str = "x") -> np.ndarray | None:
    """Compute the first principal components of samples divided by one number.

    Args:
      values: (n, ...).
      count: number of components.
      name: name of the variable in error messages.

    Returns:
      (n, count), or None if there are fewer samples or columns than `count`.

    Raises:
      ValueError: if values are not real and finite.
    """
    columns = scale_jointly(_float_columns(values, name), name)
    if min(columns.shape) < count:
        return None
    return columns @ principal_axes(columns, count)


def procrustes_rotation(columns: ArrayLike, align_to: ArrayLike) -> np.ndarray:
    """Compute the rotation that brings columns closest to a target: orthogonal Procrustes.

    Principal components of a layer in another epoch may have other signs and another order, and a
    statistics network trained on the earlier ones would not fit the later ones. Rotated to a fixed
    target, they stay alike. A rotation preserves the mutual information. See Schönemann 1966, "A
    generalized solution of the orthogonal Procrustes problem".

    Args:
      columns: (n, k).
      align_to: (n, k), the target; if its number of columns differs, the rotation is the identity.

    Returns:
      An orthogonal matrix, (k, k), to multiply columns by from the right.

    Raises:
      ValueError: if the numbers of samples differ.
    """
    from scipy.linalg import orthogonal_procrustes

    columns, align_to = np.asarray(columns), np.asarray(align_to)
    if len(columns) != len(align_to):
        raise ValueError(
            f"align_to must have a row for each of the {len(columns)} samples, got {len(align_to)}"
        )
    if columns.shape != align_to.shape:
        return np.eye(columns.shape[1], dtype=columns.dtype)
    return orthogonal_procrustes(columns, align_to)[0]


def clip_outlying_rows(columns: np.ndarray, name: str = "x") -> np.ndarray:
    """Move outlying rows towards the median until they do not outweigh all others.

    Args:
      columns: (n, d), floats.
      name: name of the variable in error messages.

    Returns:
      The columns, with rows at most `MAX_DISTANCE` times the median distance from the center; the
      same array if no row is farther.

    Raises:
      ValueError: if a value is not finite.
    """
    scale = _max_abs(columns, name)
    sample = columns[:: max(1, len(columns) // MEDIAN_ROWS)]
    center = np.median(sample / scale, axis=0)
    norms = []
    for rows in _row_blocks(columns):
        offsets = np.abs(columns[rows] / scale - center)
        # Beside a row of 1e200 the squares of all others would vanish.
        largest = np.maximum(offsets.max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        norms.append(largest[:, 0] * np.linalg.norm(offsets / largest, axis=1))
    distances = np.concatenate(norms)
    # Most rows may be equal, like empty images.
    limit = MAX_DISTANCE * np.median(distances[distances > 0]) if distances.any() else 0.0
    outlying = distances > limit
    if not outlying.any():
        return columns
    offsets = columns[outlying] / scale - center
    clipped = columns.copy()
    clipped[outlying] = scale * (center + offsets * (limit / distances[outlying])[:, None])
    return clipped


def scale_jointly(columns: np.ndarray, name: str) -> np.ndarray:
    """Center columns, (n, d), and divide all by one number, to a mean square of 1; float32."""
    scale = _max_abs(columns, name)  # squares of values such as 1e200 overflow
    blocks = _row_blocks(columns)
    first = columns[0] / scale  # so that the mean of equal rows is exact
    mean = first + sum((columns[rows] / scale - first).sum(axis=0) for rows in blocks) / len(
        columns
    )
    scaled, total = np.empty(columns.shape, np.float32), 0.0
    for rows in blocks:
        block = columns[rows] / scale - mean
        total += np.einsum("nd,nd->", block, block)
        scaled[rows] = block
    deviation = math.sqrt(total / columns.size)
    scaled /= deviation if deviation > 0 else 1
    return scaled


def _row_blocks(columns: np.ndarray) -> list[slice]:
    size = max(1, BLOCK_ELEMENTS // columns.shape[1])
    return [slice(start, start + size) for start in range(0, len(columns), size)]


def _max_abs(columns: np.ndarray, name: str) -> np.float64:
    """The largest absolute value, or 1 if all are 0; float64, so that quotients are, too."""
    largest = np.float64(max(np.max(columns), -np.min(columns)))  # np.abs would make a copy
    if not np.isfinite(largest):
        _check_finite(columns, name)
    return largest if largest > 0 else np.float64(1)


def normal_scores(columns: np.ndarray, name: str = "x") -> np.ndarray:
    """Map the ranks of each column, (n, d), to normal quantiles of unit variance.

    Ties have their mean rank; constant columns become zero.

    Raises:
      ValueError: if a value is not finite; `name` is the variable's.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata  # takes a second to import

    _check_finite(columns, name)
    ranks = rankdata(columns, axis=0).astype(np.float64)  # float32 of float32 since SciPy 1.18
    scores = ndtri((ranks - 0.5) / len(columns))
    scores -= scores.mean(axis=0)
    deviation = scores.std(axis=0)
    return scores / np.where(deviation > MIN_DEVIATION, deviation, np.inf)


def _standardize(columns: np.ndarray, name: str) -> np.ndarray:
    """Scale each column to zero mean and unit variance."""
    _check_finite(columns, name)
    largest = np.abs(columns).max(axis=0).astype(np.float64)
    columns = columns / np.where(largest > 0, largest, 1)  # squares of 1e200 overflow
    columns -= columns.min(axis=0)
    largest = columns.max(axis=0)
    columns /= np.where(largest > 0, largest, 1)
    columns -= columns.mean(axis=0)
    deviation = columns.std(axis=0)
    columns /= np.where(deviation > 0, deviation, 1)
    return columns


def _standardize_robustly(columns: np.ndarray, name: str) -> np.ndarray:
    """Standardize, and compress to a logarithm beyond `MAX_LINEAR` deviations."""
    columns = _standardize(columns, name)
    tail = np.maximum(np.abs(columns) - MAX_LINEAR, 0)
    return np.clip(columns, -MAX_LINEAR, MAX_LINEAR) + np.sign(columns) * np.log1p(tail)


def one_hot(labels: np.ndarray, name: str) -> Array:
    """Turn labels (n,) into columns, (n, classes), uint8.

    Raises:
      ValueError: if there are more than `MAX_LABELS` classes.
    """
    classes, positions = np.unique(labels, return_inverse=True)
    if len(classes) > MAX_LABELS:
        raise ValueError(
            f"{name} has {len(classes)} different integers, more than {MAX_LABELS} labels; pass "
            "it as floats if they are numbers"
        )
    return on_device(np.eye(len(classes), dtype=np.uint8)[positions])


def _is_reduced(shape: tuple[int, ...], told: bool = False) -> bool:
    """Whether `prepare` keeps principal components only (and moments of images)."""
    return math.prod(shape[1:]) > MAX_RANKED_COLUMNS or image_shape(shape, told) is not None


def _float_columns(values: ArrayLike, name: str) -> np.ndarray:
    """Check and return samples as columns, (n, d), float32 or float64."""
    values = np.asarray(values)
    check_not_empty(values, name)
    if values.dtype.kind not in "biuf" and not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"{name} must hold real numbers, or labels as integers, got dtype {values.dtype}"
        )
    dtype = np.float32 if values.dtype == np.float32 else np.float64
    return values.reshape(len(values), -1).astype(dtype, copy=False)


def check_not_empty(values: np.ndarray, name: str) -> None:
    """Raise ValueError unless there are samples and columns."""
    if values.ndim == 0 or values.size == 0:
        raise ValueError(
            f"{name} must be (n, …) with samples and columns, got shape {values.shape}"
        )


def _check_finite(columns: np.ndarray, name: str) -> None:
    if not np.isfinite(columns).all():
        row = int(np.argwhere(~np.isfinite(columns))[0, 0])
        raise ValueError(
            f"{name} has a value that is not finite in row {row}; remove or rescale it"
        )
