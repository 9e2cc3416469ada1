"""Training an image classifier epoch by epoch, and reading its activations.

A model is any Linen module that is called as in `flax_model`; images are whatever it takes. The
model and the configuration are static arguments of the compiled functions, so both must be
hashable, as frozen dataclasses and Linen modules with plain fields are.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from mine_jax import class_labels, devices, flax_model
from mine_jax.compilation import jit
from mine_jax.value_checks import LARGEST, integer_problems, is_in_float32

OnProgress = Callable[[int, int, float], None]
Array = jax.Array | np.ndarray
Params = Any  # a mapping of collections to pytrees of arrays, as `model.init` returns it
Arrays = Any  # an array or a pytree of arrays

STEPS_BETWEEN_REPORTS = 100
# Images: a CPU's cache holds LeNet-5's activations of them, and blocks of 1,000 take twice as long.
BLOCK_SIZE = 200
DROPOUT_STREAM = 2**32 - 1  # no epoch's number: batches are drawn from the key folded with that


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
      ValueError: naming every value that is out of its range.
    """

    batch_size: int = 128
    learning_rate: float = 2e-3
    momentum: float = 0.9

    def __post_init__(self) -> None:
        problems = integer_problems(self, {"batch_size": (1, LARGEST)})
        if not is_in_float32(self.learning_rate) or not self.learning_rate > 0:
            problems.append(f"learning_rate must be a positive number, got {self.learning_rate!r}")
        if not is_in_float32(self.momentum) or not 0 <= self.momentum < 1:
            problems.append(f"momentum must be a number in [0, 1), got {self.momentum!r}")
        if problems:
            raise ValueError("; ".join(problems))


class ClassifierState(NamedTuple):
    """State of training: the model's variables, the optimizer's state, epochs done (int32).

    `params` has all collections: "params", which the optimizer trains, and others such as
    "batch_stats".
    """

    params: Params
    opt_state: optax.OptState
    epoch: jax.Array


class EpochInfo(NamedTuple):
    """Report of an epoch: the mean loss over its batches, in nats; NaN if training diverged."""

    train_loss: float


def init(
    key: jax.Array,
    model: nn.Module,
    config: ClassifierConfig,
    image_shape: Sequence[int],
    dtype: Any = jnp.float32,
) -> ClassifierState:
    """Draw the initial variables of a model.

    Args:
      key: random key.
      model: the classifier.
      config: how it will be trained.
      image_shape: shape of one image, such as (28, 28, 1), or (tokens,).
      dtype: type of the images; an integer type for tokens.

    Raises:
      ValueError: if the model cannot be called as in `flax_model`, with what is wanted.
    """
    params = flax_model.init(key, model, tuple(image_shape), dtype)
    trained, _ = flax_model.split(params)
    return ClassifierState(params, _optimizer(config).init(trained), jnp.zeros((), jnp.int32))


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
    n mod batch_size samples that fill no batch are dropped, different ones in each epoch. A CPU's
    devices share the batches of a model without the argument `train`; in one with it, as with batch
    normalization, the images of a batch may influence one another. The loss is the cross-entropy of
    the softmax, or of the sigmoid for one logit.

    Args:
      state: state to start from.
      key: random key of the run.
      model: the classifier.
      config: how to train.
      images: (n, ...); on the device, to avoid a copy in every epoch.
      labels: (n,), int, 0 … classes − 1.
      on_progress: called as `on_progress(steps_done, steps_total, loss)` every 100 steps and after
        the last, with the mean loss since the previous call.

    Returns:
      The next state and the report of the epoch. A non-finite loss is reported, not raised.

    Raises:
      ValueError: if there are fewer samples than a batch, if the labels do not fit the images or,
        before the first epoch, the model (`check`).
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
      images: (n, ...).
      labels: (n,), int.
      on_progress: see `train_epoch`; steps of all classifiers, mean of their losses.
      stack: train all at once under `vmap` rather than one after another; None to do so except
        on a CPU, whose cores one network's matrix products keep busier than batched ones.

    Returns:
      The next state and the report of each classifier.

    Raises:
      ValueError: see `train_epoch`.
    """
    class_labels.check_integers(images, labels)
    if any(int(state.epoch) == 0 for state in states):
        check(states[0].params, model, images, labels)
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
        dropout_key: jax.Array | None,
        steps_done: int = 0,
    ) -> tuple[Params, optax.OptState, np.ndarray]:
        total = np.zeros(())
        data = images, labels, dropout_key
        for start in range(0, num_steps, STEPS_BETWEEN_REPORTS):
            stop = min(start + STEPS_BETWEEN_REPORTS, num_steps)
            params, opt_state, loss = steps(
                params, opt_state, batches, start, stop, *data, model=model, config=config
            )
            total = total + np.asarray(loss)
            if on_progress is not None:
                done = steps_done + stop * loss.size
                on_progress(done, num_steps * len(states), float(np.mean(loss)) / (stop - start))
        return params, opt_state, total / num_steps

    alone = flax_model.trains_differently(model)
    with devices.for_networks(1) if alone else nullcontext():
        images, labels = devices.replicate((images, labels))
        starts = [
            (
                state.params,
                state.opt_state,
                draw_batches(key, state.epoch, n, config.batch_size),
                dropout_key(key, state.epoch) if alone else None,
            )
            for state, key in zip(states, keys, strict=True)
        ]
        if stack is None:
            stack = jax.default_backend() != "cpu"
        if stack and len(states) > 1:
            together = jax.tree.map(lambda *a: jnp.stack(a), *starts)
            stacked = run_epoch(_train_steps_stacked, *together)
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

    One logit stands for class 1 if it is above 0.

    Args:
      params: the model's variables.
      model: the classifier.
      images: (n, ...).
      labels: (n,), int.
      batch_size: number of images in memory at once.

    Raises:
      ValueError: if there are no images, the labels do not fit or `batch_size` is below 1.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    class_labels.check_integers(images, labels)
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
      model: the classifier.
      images: (n, ...).
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


def check(
    params: Params, model: nn.Module, images: Array, labels: Array, names: Sequence[str] = ()
) -> None:
    """Check that labels are classes of the model, and what it returns.

    Args:
      params: the model's variables.
      model: the model.
      images: (n, …).
      labels: (n,).
      names: names of activations that `probe` will read.

    Raises:
      ValueError: if labels are not integers, one for each image, or none of the model's classes, or
        if the model cannot be called as in `flax_model`; with the remedy.
    """
    class_labels.check_integers(images, labels)
    class_labels.check_range(np.asarray(labels), flax_model.check_logits(params, model, images))
    if names:
        flax_model.check_probes(params, model, images, names)


@jit
def dropout_key(key: jax.Array, epoch: jax.Array) -> jax.Array:
    """Return the key of an epoch's dropout, independent of its batches, from that of the run."""
    return jax.random.fold_in(jax.random.fold_in(key, DROPOUT_STREAM), epoch)


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
    data, which one core does alone. Not where a model has `train`: its images may influence one
    another.
    """
    mesh = None if flax_model.trains_differently(model) else devices.networks_mesh()
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
    dropout_key: jax.Array | None = None,
    *,
    model: nn.Module,
    config: ClassifierConfig,
    parts: int = 1,
) -> tuple[Params, optax.OptState, jax.Array]:
    """Take the steps `start` to `stop`, on this device's part of each batch if there are several.

    Both ends are traced, so that a shorter last chunk needs no second compilation.

    Returns:
      The variables, the optimizer's state and the sum of the losses, alike on all devices.
    """
    optimizer = _optimizer(config)

    def mean_loss(
        trained: Params, others: Params, rows: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, Params]:
        rows = devices.shard_batch(rows)
        batch = devices.shard_batch(images[rows])
        logits, others = flax_model.training_logits(trained, others, model, batch, key)
        return class_labels.cross_entropy(logits, labels[rows]), others

    def step(
        i: jax.Array, carry: tuple[Params, Params, optax.OptState, jax.Array]
    ) -> tuple[Params, Params, optax.OptState, jax.Array]:
        trained, others, opt_state, total = carry
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, i)
        rows = batches[i]
        if parts > 1:
            rows = rows.reshape(parts, -1)[lax.axis_index(devices.NETWORKS_AXIS)]
        (loss, others), gradients = jax.value_and_grad(mean_loss, has_aux=True)(
            trained, others, rows, key
        )
        if parts > 1:
            # One exchange of all numbers: one for each array takes longer.
            flat, restore = ravel_pytree((loss, gradients))
            loss, gradients = restore(lax.pmean(flat, devices.NETWORKS_AXIS))
        updates, opt_state = optimizer.update(gradients, opt_state, trained)
        return optax.apply_updates(trained, updates), others, opt_state, total + loss

    first = (*flax_model.split(params), opt_state, jnp.zeros(()))
    trained, others, opt_state, total = lax.fori_loop(start, stop, step, first)
    return {**trained, **others}, opt_state, total


train_steps = jit(_train_steps, static_argnames=("model", "config"), shares_work=True)


@jit(static_argnames=("model", "config"))
def _train_steps_stacked(
    *stacked_and_shared: Any, model: nn.Module, config: ClassifierConfig
) -> tuple[Params, optax.OptState, jax.Array]:
    """Take the steps of `_train_steps` for stacked classifiers, each with its batches."""
    one = partial(_train_steps, model=model, config=config)
    return jax.vmap(one, in_axes=(0, 0, 0, None, None, None, None, 0))(*stacked_and_shared)


@jit(static_argnames=("model",))
def _predict(params: Params, images: jax.Array, *, model: nn.Module) -> jax.Array:
    return class_labels.predicted(flax_model.logits(params, model, images))


@jit(static_argnames=("model", "names"))
def _probe(
    params: Params, images: jax.Array, *, model: nn.Module, names: tuple[str, ...]
) -> dict[str, jax.Array]:
    activations = flax_model.activations(params, model, images, names)
    return {name: activations[name] for name in names}


def _optimizer(config: ClassifierConfig) -> optax.GradientTransformation:
    return optax.sgd(config.learning_rate, config.momentum)


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
