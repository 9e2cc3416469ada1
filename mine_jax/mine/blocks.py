"""Loops over blocks of samples, where blocks of nothing but padding cost no time.

Blocks limit the memory for scores of pairs, too. How many blocks there are is known at run time
alone, so that one program serves different numbers of samples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp

from mine_jax.mine import bounds
from mine_jax.mine.bounds import Array
from mine_jax.mine.padding import NO_ROW

# Rows of pairs that are scored at once, if separable and if not. No power of two: values with such
# distances in memory compete for places in a CPU's cache, and sums over them take twice the time.
BLOCK_ROWS = {True: 208, False: 8}
# Columns of such pairs, and samples that are encoded at once: few, so that padding takes little
# time, or as many as there mostly are, to keep an accelerator busy. Multiples of `BLOCK_ROWS`.
BLOCK_COLUMNS = {"cpu": 208, "other": 8320}


class Sizes(NamedTuple):
    """Sizes of a block of pairs; `columns` is a multiple of `rows`."""

    rows: int
    columns: int


def block_sizes(width: int, separable: bool) -> Sizes:
    """Return the sizes of blocks of pairs of so many samples, padding included."""
    rows = min(width, BLOCK_ROWS[separable])
    most = BLOCK_COLUMNS["cpu" if jax.default_backend() == "cpu" else "other"]
    return Sizes(rows, min(most, -(-width // rows) * rows))


def fill_blocks(rows: Array, size: int) -> Array:
    """Pad row numbers, (r,), to whole blocks."""
    return jnp.pad(rows, (0, -len(rows) % size), constant_values=NO_ROW)


def map_blocks(function: Callable[[Array], Any], rows: Array, number: Array, size: int) -> Any:
    """Apply a function to the row numbers of one block after another.

    Args:
      function: takes row numbers, (size,), to a pytree with samples in front.
      rows: whole blocks of them, (r,).
      number: how many of them are no padding, ().
      size: of a block.

    Returns:
      The results, (r, …); for padding zeros, or the function's values of it.
    """

    def block(i: Array) -> Any:
        return function(lax.dynamic_slice_in_dim(rows, i * size, size))

    def body(i: Array, results: Any) -> Any:
        return jax.tree.map(
            lambda all_of, new: lax.dynamic_update_slice_in_dim(all_of, new, i * size, 0),
            results,
            block(i),
        )

    zeros = jax.tree.map(
        lambda leaf: jnp.zeros((len(rows), *leaf.shape[1:]), leaf.dtype),
        jax.eval_shape(block, jnp.zeros((), jnp.int32)),
    )
    return lax.fori_loop(0, num_blocks(number, size), body, zeros)


def num_blocks(number: Array, size: int) -> Array:
    """Return how many blocks of a size hold so many samples, ()."""
    return (number + size - 1) // size


class Pairs(NamedTuple):
    """The scores of all pairs of n samples of x with m samples of z, block by block.

    Attributes:
      score: takes codes of x and of z, and the positions of x, to scores, (rows, columns).
      x_code: pytree of whole blocks of rows, samples in front.
      z_code: pytree of whole blocks of columns.
      x_number: how many of x are no padding, ().
      z_number: likewise of z.
      sizes: of the blocks.
      joint: whether the pairs (x_i, z_i) count.
    """

    score: Callable[[Any, Any, Array], Array]
    x_code: Any
    z_code: Any
    x_number: Array
    z_number: Array
    sizes: Sizes
    joint: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of samples with padding."""
        x, z = (jax.tree.leaves(code)[0].shape[0] for code in (self.x_code, self.z_code))
        return x, z

    def block(self, row: Array, column: Array) -> Array:
        """Return the scores of the block that begins there; −∞ for pairs that do not count."""
        x_code, z_code = (
            jax.tree.map(lambda leaf, s=start, n=size: lax.dynamic_slice_in_dim(leaf, s, n), code)
            for code, start, size in zip(
                (self.x_code, self.z_code), (row, column), self.sizes, strict=True
            )
        )
        rows = (row + jnp.arange(self.sizes.rows))[:, None]
        columns = (column + jnp.arange(self.sizes.columns))[None]
        counts = (rows < self.x_number) & (columns < self.z_number)
        if not self.joint:
            counts &= rows != columns
        return jnp.where(counts, self.score(x_code, z_code, rows[:, 0]), -jnp.inf)


def row_sums(pairs: Pairs) -> Array:
    """Return log Σ_j exp T(x_i, z_j), (n,)."""
    size, columns = pairs.sizes

    def body(i: Array, sums: Array) -> Array:
        def add(j: Array, rows: Array) -> Array:
            block = pairs.block(i * size, j * columns)
            return jnp.logaddexp(rows, logsumexp(block, axis=1))

        start = jnp.full(size, -jnp.inf)
        rows = lax.fori_loop(0, num_blocks(pairs.z_number, columns), add, start)
        return _put(sums, rows, i * size)

    start = jnp.full(pairs.shape[0], -jnp.inf)
    return lax.fori_loop(0, num_blocks(pairs.x_number, size), body, start)


def all_sums(pairs: Pairs, joint: Array) -> bounds.Sums:
    """Return all sums over the pairs of n samples, with their joint scores (n,)."""
    size, columns = pairs.sizes
    nothing = jnp.full(len(joint), -jnp.inf)

    def body(i: Array, sums: bounds.Sums) -> bounds.Sums:
        rows, scores = _sums_of_block_row(pairs, i * size)
        full = jnp.logaddexp(rows, lax.dynamic_slice_in_dim(joint, i * size, size))

        def add(j: Array, sums: bounds.Sums) -> bounds.Sums:
            block = lax.dynamic_slice_in_dim(scores, j * columns, columns, 1)
            of_columns, as_negative = (
                lax.dynamic_slice_in_dim(each, j * columns, columns)
                for each in (sums.columns, sums.as_negative)
            )
            of_columns = jnp.logaddexp(of_columns, logsumexp(block, axis=0))
            as_negative += jnp.sum(jnp.exp(block - full[:, None]), axis=0)
            return sums._replace(
                columns=_put(sums.columns, of_columns, j * columns),
                squares=jnp.logaddexp(sums.squares, logsumexp(2 * block)),
                as_negative=_put(sums.as_negative, as_negative, j * columns),
            )

        sums = sums._replace(rows=_put(sums.rows, rows, i * size))
        return lax.fori_loop(0, num_blocks(pairs.z_number, columns), add, sums)

    start = bounds.Sums(
        joint, nothing, nothing, nothing[0], jnp.zeros_like(joint), pairs.z_number - 1.0
    )
    return lax.fori_loop(0, num_blocks(pairs.x_number, size), body, start)


def _sums_of_block_row(pairs: Pairs, row: Array) -> tuple[Array, Array]:
    """Return log Σ_j exp T(x_i, z_j) of a block of rows, and the scores."""
    size, columns = pairs.sizes

    def body(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        sums, scores = carry
        block = pairs.block(row, j * columns)
        sums = jnp.logaddexp(sums, logsumexp(block, axis=1))
        return sums, lax.dynamic_update_slice_in_dim(scores, block, j * columns, 1)

    start = jnp.full(size, -jnp.inf), jnp.full((size, pairs.shape[1]), -jnp.inf)
    return lax.fori_loop(0, num_blocks(pairs.z_number, columns), body, start)


def _put(values: Array, new: Array, start: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(values, new, start, 0)
