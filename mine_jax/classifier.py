"""Training an image classifier epoch by epoch, and reading its activations; knows no MINE.

A model is any Flax module whose `apply(params, images)` gives logits (n, classes). The model and
the configuration are static arguments of the compiled functions, so both must be hashable, as
frozen dataclasses and Linen modules with plain fields are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax
from jax.typing import ArrayLike

from mine_jax import devices
from mine_jax.compilation import jit

OnProgress = Callable[[int, int, float], None]
Params = Any  # a pytree of arrays, as `model.init` gives it
Arrays = Any  # an array or a pytree of arrays

_STEPS_BETWEEN_REPORTS = 100
_IN_CACHE = (
    200  # images: a CPU's cache holds what LeNet-5 makes of them, and 1,000 take twice as long
)


@dataclass(frozen=True)
class ClassifierConfig:
    """How a classifier is trained: SGD with momentum at a constant learning rate.

    The default rate is low on purpose: LeNet-5 on MNIST changes over many epochs rather than in
    the first one, and still passes 98.5 % test accuracy within 40.

    Attributes:
        batch_size: images in a step.
        learning_rate: size of the step.
        momentum: share of the previous step that is kept, in [0, 1).

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
    """What training carries: the model's variables, the optimiser's state, epochs done (int32)."""

    params: Params
    opt_state: optax.OptState
    epoch: jax.Array


class EpochInfo(NamedTuple):
    """What an epoch reports: the mean loss over its batches, in nats; NaN if training diverged."""

    train_loss: float


def init(
    key: jax.Array, model: nn.Module, config: ClassifierConfig, image_shape: Sequence[int]
) -> ClassifierState:
    """Draws the first parameters of `model` for images of `image_shape`, such as (28, 28, 1)."""
    params = _init_params(key, model, tuple(image_shape))
    return ClassifierState(params, _optimiser(config).init(params), jnp.zeros((), jnp.int32))


def train_epoch(
    state: ClassifierState,
    key: jax.Array,
    model: nn.Module,
    config: ClassifierConfig,
    images: ArrayLike,
    labels: ArrayLike,
    on_progress: OnProgress | None = None,
) -> tuple[ClassifierState, EpochInfo]:
    """Passes once over the data in random order.

    The order comes from `key` folded with `state.epoch`, so the same key serves all epochs. The
    n mod batch_size samples that fill no batch are dropped, others in each epoch.

    Args:
        state: where to start.
        key: random key of the run.
        model: the classifier.
        config: how to train.
        images: (n, ...), float; keep it on the device to spare a copy every epoch.
        labels: (n,), int.
        on_progress: called as `on_progress(steps_done, steps_total, loss)` every 100 steps and
            after the last, with the mean loss since the call before.

    Returns:
        The next state, and the epoch's report. A loss that is not finite is reported, not raised.

    Raises:
        ValueError: if there are fewer samples than a batch, or if the labels do not fit.
    """
    ((state, info),) = train_epochs([state], [key], model, config, images, labels, on_progress)
    return state, info


def train_epochs(
    states: Sequence[ClassifierState],
    keys: Sequence[jax.Array],
    model: nn.Module,
    config: ClassifierConfig,
    images: ArrayLike,
    labels: ArrayLike,
    on_progress: OnProgress | None = None,
) -> list[tuple[ClassifierState, EpochInfo]]:
    """`train_epoch` of several classifiers on the same data, each with a key of its own.

    On a CPU one after another, where a network's steps already keep all cores busy; elsewhere all
    at once under `vmap`.

    Args:
        states: where each starts; all at the same epoch.
        keys: the random key of each one's run.
        model: the classifier.
        config: how to train.
        images: as for `train_epoch`.
        labels: likewise.
        on_progress: likewise, with the steps of all and the mean of their losses.

    Returns:
        For each its next state and its report.

    Raises:
        ValueError: as `train_epoch`.
    """
    images, labels = devices.everywhere((images, labels))
    _check_labels(images, labels)
    n = images.shape[0]
    steps = n // config.batch_size
    if steps == 0:
        raise ValueError(
            f"{n} samples do not fill one batch of {config.batch_size}; "
            "give more samples or a smaller batch_size"
        )
    stacked = len(states) > 1 and _pays_to_stack()
    carried = [
        (state.params, state.opt_state, _draw_batches(key, state.epoch, n, config.batch_size))
        for state, key in zip(states, keys, strict=True)
    ]
    if stacked:
        carried = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *carried)]
    take = _train_steps_of_all if stacked else train_steps
    results = []
    for place, (params, opt_state, batches) in enumerate(carried):
        total = np.zeros(len(states) if stacked else 1)
        for start in range(0, steps, _STEPS_BETWEEN_REPORTS):
            stop = min(start + _STEPS_BETWEEN_REPORTS, steps)
            params, opt_state, loss = take(
                params, opt_state, batches, start, stop, images, labels, model=model, config=config
            )
            total += np.asarray(loss)
            if on_progress is not None:
                done = stop * total.size + place * steps
                on_progress(done, steps * len(states), float(np.mean(loss)) / (stop - start))
        results += [
            (own, EpochInfo(loss / steps))
            for own, loss in zip(
                _unstack((params, opt_state), total.size) if stacked else [(params, opt_state)],
                total.tolist(),
                strict=True,
            )
        ]
    return [
        (ClassifierState(*own, state.epoch + 1), info)
        for state, (own, info) in zip(states, results, strict=True)
    ]


def accuracy(
    params: Params,
    model: nn.Module,
    images: ArrayLike,
    labels: ArrayLike,
    batch_size: int = _IN_CACHE,
) -> float:
    """Computes the share of `images` (n, ...) whose largest logit is at their label.

    Args:
        params: the model's variables.
        model: the classifier.
        images: (n, ...), float.
        labels: (n,), int.
        batch_size: images in memory at once.

    Raises:
        ValueError: if there are no images, the labels do not fit or `batch_size` is below 1.
    """
    labels = np.asarray(labels)
    _check_labels(images, labels)
    predicted = _in_blocks(partial(_predict, params, model=model), images, batch_size)
    return float(np.mean(predicted == labels))


def probe(
    params: Params,
    model: nn.Module,
    images: ArrayLike,
    names: Sequence[str],
    batch_size: int = _IN_CACHE,
) -> dict[str, np.ndarray]:
    """Reads the activations of all images.

    Args:
        params: the model's variables.
        model: the classifier; `apply(params, images, probes=names)` gives the logits and a mapping
            of names to activations.
        images: (n, ...), float.
        names: which activations to read.
        batch_size: images on the device at once, besides the results (n, ...) on the host.

    Returns:
        The activations, each (n, ...), in the order of `names`.

    Raises:
        ValueError: if there are no names or no images, or `batch_size` is below 1.
    """
    names = tuple(names)
    if not names:
        raise ValueError("names is empty; name at least one probe")
    read = partial(_probe, params, model=model, names=names)
    activations = _in_blocks(read, images, batch_size)
    return {name: activations[name] for name in names}


def _optimiser(config: ClassifierConfig) -> optax.GradientTransformation:
    return optax.sgd(config.learning_rate, config.momentum)


def _pays_to_stack() -> bool:
    # A CPU's cores are busy with the products of one network; batched ones keep fewer busy.
    return jax.default_backend() != "cpu"


def _unstack(tree: Arrays, number: int) -> list[Arrays]:
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(number)]


def _check_labels(images: ArrayLike, labels: ArrayLike) -> None:
    if labels.shape != np.shape(images)[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}; "
            f"give integers of shape {np.shape(images)[:1]}, one for each image"
        )


@jit(static_argnames=("model", "image_shape"), seldom=True)
def _init_params(key: jax.Array, model: nn.Module, image_shape: tuple[int, ...]) -> Params:
    return model.init(key, jnp.zeros((1, *image_shape)))


@jit(static_argnames=("n", "batch_size"))
def _draw_batches(key: jax.Array, epoch: jax.Array, n: int, batch_size: int) -> jax.Array:
    """Draws the rows of each batch, (n // batch_size, batch_size)."""
    order = jax.random.permutation(jax.random.fold_in(key, epoch), n)
    return order[: n - n % batch_size].reshape(-1, batch_size)


@jit(static_argnames=("model", "config"))
def train_steps(
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
) -> tuple[Params, optax.OptState, jax.Array]:
    """Takes the steps `start` to `stop`; returns the sum of their losses.

    Both ends are traced, so that a shorter last chunk needs no second compilation.
    """
    optimiser = _optimiser(config)

    def mean_loss(params: Params, rows: jax.Array) -> jax.Array:
        rows = devices.spread(rows)
        logits = model.apply(params, devices.spread(images[rows]))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    def step(
        i: jax.Array, carry: tuple[Params, optax.OptState, jax.Array]
    ) -> tuple[Params, optax.OptState, jax.Array]:
        params, opt_state, total = carry
        loss, gradients = jax.value_and_grad(mean_loss)(params, batches[i])
        updates, opt_state = optimiser.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, total + loss

    return lax.fori_loop(start, stop, step, (params, opt_state, jnp.zeros(())))


@jit(static_argnames=("model", "config"))
def _train_steps_of_all(
    *stacked_then_shared: Any, model: nn.Module, config: ClassifierConfig
) -> tuple[Params, optax.OptState, jax.Array]:
    """`train_steps` of stacked classifiers, each on batches of its own; losses are (stack,)."""
    one = partial(train_steps, model=model, config=config)
    return jax.vmap(one, in_axes=(0, 0, 0, None, None, None, None))(*stacked_then_shared)


@jit(static_argnames=("model",))
def _predict(params: Params, images: jax.Array, *, model: nn.Module) -> jax.Array:
    return model.apply(params, images).argmax(axis=-1)


@jit(static_argnames=("model", "names"))
def _probe(
    params: Params,
    images: jax.Array,
    *,
    model: nn.Module,
    names: tuple[str, ...],
) -> dict[str, jax.Array]:
    return model.apply(params, images, probes=names)[1]


def _in_blocks(
    function: Callable[[np.ndarray], Arrays], images: ArrayLike, batch_size: int
) -> Arrays:
    """Applies `function`, which keeps the leading axis, to blocks of `images`.

    Returns:
        What `function` would give for all images, as NumPy arrays.
    """
    images = np.asarray(images)
    n = images.shape[0]
    if n == 0 or batch_size < 1:
        raise ValueError(f"{n} images in blocks of {batch_size}; give at least one of each")
    size = min(batch_size, n)
    results = None
    for start in range(0, n, size):
        # The last block reaches back over rows already done: one shape, hence one compilation.
        first = min(start, n - size)
        block = jax.device_get(function(images[first : first + size]))
        if results is None:
            results = jax.tree.map(lambda a: np.empty((n, *a.shape[1:]), a.dtype), block)
        for whole, part in zip(jax.tree.leaves(results), jax.tree.leaves(block), strict=True):
            whole[first : first + size] = part
    return results
