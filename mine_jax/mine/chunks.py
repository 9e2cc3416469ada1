"""A chunk of training: many steps of every network of a stack, in one program."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mine_jax.compilation import jit
from mine_jax.mine import padding, stack
from mine_jax.mine.config import MineConfig
from mine_jax.mine.stack import Array, Data, Side
from mine_jax.mine.training import Batch, MineState, ascend, class_weights


@jit(static_argnames=("config",), shares_work=True)
def train_chunk(
    state: MineState,
    active: Array,
    rate: Array,
    keys: Array,
    number: int | Array,
    batches: Array,
    fold: Array,
    data: Data,
    config: MineConfig,
) -> tuple[MineState, Array]:
    """Take a step of every active network for each batch.

    Args:
      state: of the stack.
      active: networks to train, (networks,); the others stay as they are.
      rate: learning rates, (networks,).
      keys: keys for fresh noise, (folds,): the same for all networks of a fold.
      number: of the chunk, whose noise is that of no other one.
      batches: rows, (folds, steps, b).
      fold: the fold of each network, (networks,).
      data: samples of the stack.
      config: the configuration.

    Returns:
      The states, and the mean objective over the batches, (networks,): 0 where not active, as NaN
      would end it under `jax.debug_nans`, and NaN where the state is no longer finite.
    """

    def one(
        state: MineState,
        rate: Array,
        fold: Array,
        x_index: Array,
        z_index: Array,
        data: Data,
        keys: Array,
        number: Array,
        batches: Array,
    ) -> tuple[MineState, Array]:
        key = jax.random.fold_in(keys[fold], number)
        weights = class_weights(data, z_index, config)
        columns = stack.columns_of(data.x, x_index), stack.columns_of(data.z, z_index)

        def body(state: MineState, batch: tuple[Array, Array]) -> tuple[MineState, Array]:
            rows, step = batch
            x_key, z_key = jax.random.split(jax.random.fold_in(key, step))
            x = training_rows(x_key, data.x, x_index, rows)
            z = training_rows(z_key, data.z, z_index, rows)
            state, info = ascend(state, Batch(x, z, *columns, weights), rate, config)
            return state, info.bound

        steps = jnp.arange(batches.shape[1])
        state, nats = jax.lax.scan(body, state, (batches[fold], steps))
        # Infinite moments of Adam would hold the weights, which stay finite, where they are.
        finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()
        return state, jnp.where(finite, jnp.mean(nats), jnp.nan)

    nothing = jnp.zeros(len(active))
    return stack.map_networks(
        stack.resolve_mapper(config.mapper),
        one,
        *(state, rate, fold, data.x.index, data.z.index),
        common=(data, keys, jnp.asarray(number), batches),
        active=active,
        otherwise=(state, nothing),
    )


def training_rows(key: Array, side: Side, index: Array, rows: Array) -> Array:
    """Return rows of one array, with fresh noise if there is any.

    A key for each row, whose first numbers do not depend on how many are drawn (with JAX's default
    generator): the noise of a network does not depend on the others of its stack.
    """
    if side.noiseless is None or side.noise_std is None:
        return stack.take_rows(side.measured, index, rows)
    values = stack.take_rows(side.noiseless, index, rows)
    columns = jnp.arange(stack.num_columns(values))
    deviations = jnp.where(
        columns < stack.columns_of(side, index), jnp.asarray(side.noise_std)[index], 0
    )
    draw = partial(jax.random.normal, shape=columns.shape)
    noise = deviations[None] * jax.vmap(draw)(jax.random.split(key, len(rows)))
    return values + noise.reshape(values.shape)


def draw_batches(
    keys: Array, number: int, train_rows: np.ndarray, config: MineConfig
) -> np.ndarray:
    """Draw the batches of a chunk: passes over all training rows in random order.

    Args:
      keys: PRNG keys, (folds,).
      number: of the chunk.
      train_rows: (folds, m); they may end in padding, see `padding`, which is in no batch.
      config: `check_every` and `batch_size`.

    Returns:
      Rows, (folds, check_every, b).
    """
    m = int(padding.num_rows(train_rows))
    size = min(config.batch_size, m)
    per_pass = m // size
    passes = -(-config.check_every // per_pass)
    batches = []
    # By NumPy: a program would be compiled for each m, and sort.
    for seed, rows in zip(np.asarray(jax.random.key_data(keys)), train_rows[:, :m], strict=True):
        rng = np.random.default_rng([*seed, number])
        orders = [rng.permutation(rows)[: per_pass * size] for _ in range(passes)]
        batches.append(np.reshape(orders, (-1, size))[: config.check_every])
    return np.stack(batches)
