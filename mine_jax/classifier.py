"""Training an image classifier epoch by epoch, and reading its activations.

A model is any Flax module whose `apply(params, images)` returns logits (n, classes). The model and
the configuration are static arguments of the compiled functions, so both must be hashable, as
frozen dataclasses and Linen modules with plain fields are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from mine_jax import devices
from mine_jax.compilation import jit

OnProgress = Callable[[int, int, float], None]
Array = jax.Array | np.ndarray
Params = Any  # a pytree of arrays, as `model.init` returns it
Arrays = Any  # an array or a pytree of arrays

STEPS_BETWEEN_REPORTS = 100
# Images: a CPU's cache holds LeNet-5's activations of them, and blocks of 1,000 take twice as long.
BLOCK_SIZE = 200


@dataclass(frozen=True)
class ClassifierConfig:
    """SGD with momentum at a constant learning rate.

    The default rate is low on purpose: LeNet-5 on MNIST changes over many epochs rather than in the
    first one, and still exceeds 98.5 % test accuracy within 40.

    Attributes:
      batch_size: number of images in a step.
      learning_rate: size of a step, positive.
      momentum: fraction of the previous step that is kept, in [0, 1).

    Raises:
      ValueError: if a value is out of its range.
    """

    batch_size: int = 128
    learning_rate: float = 2e-3
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; give at least 1")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate is {self.learning_rate}; give a positive number")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; give a number in [0, 1)")


class ClassifierState(NamedTuple):
    """State of training: the model's variables, the optimizer's state, epochs done (int32)."""

    params: Params
    opt_state: optax.OptState
    epoch: jax.Array


class EpochInfo(NamedTuple):
    """Report of an epoch: the mean loss over its batches, in nats; NaN if training diverged."""

    train_loss: float


def init(
    key: jax.Array, model: nn.Module, config: ClassifierConfig, image_shape: Sequence[int]
) -> ClassifierState:
    """Draw the initial parameters of `model` for images of `image_shape`, such as (28, 28, 1)."""
    params = _init_params(key, model, tuple(image_shape))
    return ClassifierState(params, _optimizer(config).init(params), jnp.zeros((), jnp.int32))


def train_epoch(
    state: ClassifierState,
    key: jax.Array,
    model: nn.Module,
    config: ClassifierConfig,
    images: Array,
    labels: Array,
    on_progress: OnProgress | None = None,
) -> tuple[ClassifierState, EpochInfo]:
    """Train on each sample once, in random order.

    The order is drawn from `key` folded with `state.epoch`, so one key serves all epochs. The
    n mod batch_size samples that fill no batch are dropped, different ones in each epoch. Where
    devices share a batch each computes the mean loss of its part, so that the images of a batch
    must have no influence on one another, as they have with batch normalization.

    Args:
      state: state to start from.
      key: random key of the run.
      model: the classifier.
      config: how to train.
      images: (n, ...), float; on the device, to avoid a copy in every epoch.
      labels: (n,), int.
      on_progress: called as `on_progress(steps_done, steps_total, loss)` every 100 steps and after
        the last, with the mean loss since the previous call.

    Returns:
      The next state and the report of the epoch. A non-finite loss is reported, not raised.

    Raises:
      ValueError: if there are fewer samples than a batch, or if the labels do not fit the images.
    """
    ((state, info),) = train_epochs([state], [key], model, config, images, labels, on_progress)
    return state, info


def train_epochs(
    states: Sequence[ClassifierState],
    keys: Sequence[jax.Array],
    model: nn.Module,
    config: ClassifierConfig,
    images: Array,
    labels: Array,
    on_progress: OnProgress | None = None,
    *,
    stack: bool | None = None,
) -> list[tuple[ClassifierState, EpochInfo]]:
    """Train several classifiers on the same data for an epoch; see `train_epoch`.

    Args:
      states: state to start from for each classifier.
      keys: random key of each classifier's run.
      model: the classifier.
      config: how to train.
      images: (n, ...), float.
      labels: (n,), int.
      on_progress: see `train_epoch`; steps of all classifiers, mean of their losses.
      stack: train all at once under `vmap` rather than one after another; None to do so except
        on a CPU, whose cores one network's matrix products keep busier than batched ones.

    Returns:
      The next state and the report of each classifier.

    Raises:
      ValueError: if there are fewer samples than a batch, or if the labels do not fit the images.
    """
    images, labels = devices.replicate((images, labels))
    _check_labels(images, labels)
    n = images.shape[0]
    num_steps = n // config.batch_size
    if num_steps == 0:
        raise ValueError(
            f"{n} samples do not fill one batch of {config.batch_size}; "
            "give more samples or a smaller batch_size"
        )

    def run_epoch(
        steps: Callable[..., Any],
        params: Params,
        opt_state: optax.OptState,
        batches: jax.Array,
        steps_done: int = 0,
    ) -> tuple[Params, optax.OptState, np.ndarray]:
        total = np.zeros(())
        for start in range(0, num_steps, STEPS_BETWEEN_REPORTS):
            stop = min(start + STEPS_BETWEEN_REPORTS, num_steps)
            params, opt_state, loss = steps(
                params, opt_state, batches, start, stop, images, labels, model=model, config=config
            )
            total = total + np.asarray(loss)
            if on_progress is not None:
                done = steps_done + stop * loss.size
                on_progress(done, num_steps * len(states), float(np.mean(loss)) / (stop - start))
        return params, opt_state, total / num_steps

    starts = [
        (state.params, state.opt_state, draw_batches(key, state.epoch, n, config.batch_size))
        for state, key in zip(states, keys, strict=True)
    ]
    if stack is None:
        stack = jax.default_backend() != "cpu"
    if stack and len(states) > 1:
        stacked = run_epoch(_train_steps_stacked, *jax.tree.map(lambda *a: jnp.stack(a), *starts))
        ends = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(len(states))]
    else:
        ends = [run_epoch(train_steps, *start, i * num_steps) for i, start in enumerate(starts)]
    ends = [(*devices.leave_networks_mesh(end[:2]), end[2]) for end in ends]
    return [
        (ClassifierState(params, opt_state, state.epoch + 1), EpochInfo(float(loss)))
        for state, (params, opt_state, loss) in zip(states, ends, strict=True)
    ]


def accuracy(
    params: Params,
    model: nn.Module,
    images: Array,
    labels: Array,
    batch_size: int = BLOCK_SIZE,
) -> float:
    """Compute the fraction of images whose largest logit is that of their label.

    Args:
      params: the model's variables.
      model: the classifier.
      images: (n, ...), float.
      labels: (n,), int.
      batch_size: number of images in memory at once.

    Raises:
      ValueError: if there are no images, the labels do not fit or `batch_size` is below 1.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    _check_labels(images, labels)
    predicted = _map_blocks(partial(_predict, params, model=model), images, batch_size)
    return float(np.mean(predicted == labels))


def probe(
    params: Params,
    model: nn.Module,
    images: Array,
    names: Sequence[str],
    batch_size: int = BLOCK_SIZE,
) -> dict[str, np.ndarray]:
    """Read the activations of all images.

    Args:
      params: the model's variables.
      model: the classifier; `apply(params, images, probes=names)` returns the logits and a
        mapping of names to activations.
      images: (n, ...), float.
      names: names of the activations.
      batch_size: number of images on the device at once; the results (n, ...) are on the host.

    Returns:
      The activations, each (n, ...), in the order of `names`. On a CPU `jax.device_put` shares
      their memory: do not change them after it.

    Raises:
      ValueError: if there are no names or no images, or `batch_size` is below 1.
    """
    names = tuple(names)
    if not names:
        raise ValueError("names is empty; name at least one probe")
    read = partial(_probe, params, model=model, names=names)
    activations = _map_blocks(read, images, batch_size)
    return {name: activations[name] for name in names}


@jit(static_argnames=("n", "batch_size"))
def draw_batches(key: jax.Array, epoch: jax.Array, n: int, batch_size: int) -> jax.Array:
    """Draw the rows of each batch of an epoch, (n // batch_size, batch_size)."""
    order = jax.random.permutation(jax.random.fold_in(key, epoch), n)
    return order[: n - n % batch_size].reshape(-1, batch_size)


def _train_steps(
    *arguments: Any, model: nn.Module, config: ClassifierConfig
) -> tuple[Params, optax.OptState, jax.Array]:
    """Take the steps of `_train_part` on whole batches.

    A CPU's devices share each batch where their number divides `batch_size`: most of a step moves
    data, which one core does alone.
    """
    mesh = devices.networks_mesh()
    if mesh is None or config.batch_size % mesh.size:
        return _train_part(*arguments, model=model, config=config)
    part, whole = partial(_train_part, model=model, config=config, parts=mesh.size), PartitionSpec()
    shared = jax.shard_map(part, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)
    return shared(*arguments)


def _train_part(
    params: Params,
    opt_state: optax.OptState,
    batches: jax.Array,
    start: int,
    stop: int,
    images: jax.Array,
    labels: jax.Array,
    *,
    model: nn.Module,
    config: ClassifierConfig,
    parts: int = 1,
) -> tuple[Params, optax.OptState, jax.Array]:
    """Take the steps `start` to `stop`, on this device's part of each batch if there are several.

    Both ends are traced, so that a shorter last chunk needs no second compilation.

    Returns:
      The parameters, the optimizer's state and the sum of the losses, alike on all devices.
    """
    optimizer = _optimizer(config)

    def mean_loss(params: Params, rows: jax.Array) -> jax.Array:
        rows = devices.shard_batch(rows)
        logits: Any = model.apply(params, devices.shard_batch(images[rows]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    def loss_and_gradients(params: Params, rows: jax.Array) -> tuple[jax.Array, Params]:
        if parts == 1:
            return jax.value_and_grad(mean_loss)(params, rows)
        own = rows.reshape(parts, -1)[lax.axis_index(devices.NETWORKS_AXIS)]
        # One exchange of all numbers: one for each array takes longer.
        flat, restore = ravel_pytree(jax.value_and_grad(mean_loss)(params, own))
        return restore(lax.pmean(flat, devices.NETWORKS_AXIS))

    def step(
        i: jax.Array, carry: tuple[Params, optax.OptState, jax.Array]
    ) -> tuple[Params, optax.OptState, jax.Array]:
        params, opt_state, total = carry
        loss, gradients = loss_and_gradients(params, batches[i])
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, total + loss

    return lax.fori_loop(start, stop, step, (params, opt_state, jnp.zeros(())))


train_steps = jit(_train_steps, static_argnames=("model", "config"), shares_work=True)


@jit(static_argnames=("model", "config"))
def _train_steps_stacked(
    *stacked_and_shared: Any, model: nn.Module, config: ClassifierConfig
) -> tuple[Params, optax.OptState, jax.Array]:
    """Take the steps of `_train_steps` for stacked classifiers, each with its batches."""
    one = partial(_train_steps, model=model, config=config)
    return jax.vmap(one, in_axes=(0, 0, 0, None, None, None, None))(*stacked_and_shared)


@jit(static_argnames=("model", "image_shape"), fast_compile=True)
def _init_params(key: jax.Array, model: nn.Module, image_shape: tuple[int, ...]) -> Params:
    return model.init(key, jnp.zeros((1, *image_shape)))


@jit(static_argnames=("model",))
def _predict(params: Params, images: jax.Array, *, model: nn.Module) -> jax.Array:
    logits: Any = model.apply(params, images)
    return logits.argmax(axis=-1)


@jit(static_argnames=("model", "names"))
def _probe(
    params: Params, images: jax.Array, *, model: nn.Module, names: tuple[str, ...]
) -> dict[str, jax.Array]:
    _, activations = cast(Any, model.apply(params, images, probes=names))
    return activations


def _optimizer(config: ClassifierConfig) -> optax.GradientTransformation:
    return optax.sgd(config.learning_rate, config.momentum)


def check_labels(params: Params, model: nn.Module, images: Array, labels: Array) -> None:
    """Check that labels are integers, one for each image, of the model's classes.

    Args:
      params: the model's variables.
      model: the model.
      images: (n, …).
      labels: (n,).

    Raises:
      ValueError: if they are not.
    """
    _check_labels(images, labels)
    logits: Any = jax.eval_shape(model.apply, params, images[:1])
    low, high, classes = np.min(labels), np.max(labels), logits.shape[-1]
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels must be in 0 … {classes - 1}, as the model has {classes} logits; got {low} to "
            f"{high}"
        )


def _check_labels(images: Array, labels: Array) -> None:
    if labels.shape != images.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}; "
            f"give integers of shape {images.shape[:1]}, one for each image"
        )


def _map_blocks(function: Callable[[Any], Arrays], images: Array, batch_size: int) -> Arrays:
    """Apply `function`, which keeps the leading axis, to blocks of `images`.

    Returns:
      The result of `function` for all images, as NumPy arrays.
    """
    images = np.asarray(images)
    n = images.shape[0]
    if n == 0 or batch_size < 1:
        raise ValueError(f"{n} images in blocks of {batch_size}; give at least one of each")
    size = min(batch_size, n)
    results = None
    for start in range(0, n, size):
        # The last block repeats earlier rows: one shape, hence one compilation.
        first = min(start, n - size)
        block = jax.device_get(function(images[first : first + size]))
        if results is None:
            results = jax.tree.map(
                lambda a: devices.aligned_empty((n, *a.shape[1:]), a.dtype), block
            )
        for whole, part in zip(jax.tree.leaves(results), jax.tree.leaves(block), strict=True):
            whole[first : first + size] = part
    return results
