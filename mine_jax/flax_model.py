"""How a Flax model is called: for its first variables, in training, for logits, for activations.

A model is a Linen module with `__call__(self, inputs, probes=(), train=False)`. It returns logits
(n, classes), or one logit for two classes, (n, 1) or (n,); with names as `probes` the logits and a
mapping of these names to activations (n, …). Only a model that computes something else in training,
as with batch normalization or dropout, has `train`. It gets True in training steps and False
otherwise. In training steps it changes its collections other than "params", such as "batch_stats",
and may draw from the random stream "dropout". Inputs keep their type: tokens are integers.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mine_jax.compilation import jit

Array = jax.Array | np.ndarray
Variables = Any  # a mapping of the names of collections to pytrees of arrays

CHECKED = 7  # inputs of a call that is checked: hardly ever the number of anything else
PARAMS = "params"  # the collection that the optimizer trains
OTHER_NAMES_OF_TRAIN = ("training", "is_training", "deterministic")
WANTED = (
    "give it __call__(self, inputs, probes=(), train=False) that returns logits (n, classes), and "
    "with probes (logits, {name: activations}); `train` is for batch normalization "
    "(use_running_average=not train) and dropout (deterministic=not train), and may be left out"
)


def trains_differently(model: nn.Module) -> bool:
    """Tell whether the model has the argument `train`."""
    return "train" in inspect.signature(type(model).__call__).parameters


def init(key: jax.Array, model: nn.Module, shape: tuple[int, ...], dtype: Any) -> Variables:
    """Draw the first variables of a model.

    Args:
      key: random key.
      model: the model.
      shape: shape of one input.
      dtype: type of the inputs.

    Returns:
      The variables, all collections.

    Raises:
      ValueError: if it is no such model, with what is wanted.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model is a {type(model).__name__}; give a flax.linen.Module, or record the "
            "activations of any other network with mine_jax.Recorder"
        )
    try:
        hash(model)
    except TypeError:
        raise ValueError(
            f"{type(model).__name__} has a field that is not hashable, as a list or an array; give "
            "tuples"
        ) from None
    parameters = inspect.signature(type(model).__call__).parameters
    others = [name for name in OTHER_NAMES_OF_TRAIN if name in parameters]
    if others and not trains_differently(model):
        raise ValueError(
            f"{type(model).__name__} has the argument {others[0]}, which would keep its default in "
            "training;\nname it `train`: True in training steps, False otherwise"
        )
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    with _explained(model, (1, *shape), dtype):
        return _init(key, model, shape, dtype)


def split(variables: Variables) -> tuple[Variables, Variables]:
    """Return the variables that the optimizer trains, and the other collections."""
    trained = {name: value for name, value in variables.items() if name == PARAMS}
    return trained, {name: value for name, value in variables.items() if name != PARAMS}


def logits(variables: Variables, model: nn.Module, inputs: jax.Array) -> jax.Array:
    """Return the logits of inputs (n, …) outside training, (n, classes) or (n, 1)."""
    return _columns(model.apply(variables, inputs, **_evaluation(model)))


def training_logits(
    trained: Variables,
    others: Variables,
    model: nn.Module,
    inputs: jax.Array,
    key: jax.Array | None,
) -> tuple[jax.Array, Variables]:
    """Compute the logits of inputs (n, …) in training.

    Args:
      trained: the collection "params".
      others: the other collections.
      model: the model.
      inputs: a batch.
      key: random key of the stream "dropout"; unused for a model without `train`.

    Returns:
      The logits, (n, classes) or (n, 1), and the other collections after this batch.
    """
    variables = {**trained, **others}
    if not trains_differently(model):
        return _columns(model.apply(variables, inputs)), others
    rngs = None if key is None else {"dropout": key}
    result: Any = model.apply(variables, inputs, train=True, mutable=list(others), rngs=rngs)
    output, changed = result
    return _columns(output), {**others, **changed}


def activations(
    variables: Variables, model: nn.Module, inputs: Array, names: Sequence[str]
) -> Mapping[str, jax.Array]:
    """Return the activations of inputs (n, …) outside training by name, each (n, …)."""
    result: Any = model.apply(variables, inputs, probes=tuple(names), **_evaluation(model))
    return result[1]


def check_logits(variables: Variables, model: nn.Module, inputs: Array) -> int:
    """Check without computing what the model returns in training and outside.

    Args:
      variables: the model's variables.
      model: the model.
      inputs: (n, …).

    Returns:
      The number of logits.

    Raises:
      ValueError: if the model cannot be called, with what is wanted.
    """
    batch = _batch(inputs)
    trained, others = split(variables)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def both(
        trained: Variables, others: Variables, batch: jax.Array, key: jax.Array
    ) -> tuple[Any, Any, Variables]:
        evaluated = logits({**trained, **others}, model, batch)
        return evaluated, *training_logits(trained, others, model, batch, key)

    with _explained(model, batch.shape, batch.dtype):
        *outputs, changed = jax.eval_shape(both, trained, others, batch, key)
    for output in outputs:
        if not isinstance(output, jax.ShapeDtypeStruct):
            got = f"a {type(output).__name__}"
        elif output.ndim != 2 or output.shape[0] != CHECKED:
            got = f"an array of shape {output.shape}"
        elif not jnp.issubdtype(output.dtype, jnp.floating):
            got = f"an array of {output.dtype}"
        else:
            continue
        raise ValueError(f"{type(model).__name__} returns {got} for {CHECKED} inputs;\n{WANTED}")
    unstable = [name for name in changed if _kinds(changed[name]) != _kinds(others[name])]
    if unstable:
        raise ValueError(
            f"{type(model).__name__} changes the shapes in its collection {unstable[0]} in a "
            "training step;\nkeep arrays of one shape and type in them, and use "
            'sow("intermediates", …) for what it only reports'
        )
    return outputs[0].shape[1]


def check_probes(
    variables: Variables, model: nn.Module, inputs: Array, names: Sequence[str]
) -> None:
    """Check without computing that the model returns activations of these names.

    Raises:
      ValueError: if it does not, with what is wanted.
    """
    batch = _batch(inputs)
    with _explained(model, batch.shape, batch.dtype, f"probes={tuple(names)}"):
        arguments: dict[str, Any] = {"probes": tuple(names), **_evaluation(model)}
        result: Any = jax.eval_shape(lambda *a: model.apply(*a, **arguments), variables, batch)
    of_pair = isinstance(result, tuple) and len(result) == 2
    if not of_pair or not isinstance(result[1], Mapping):
        raise ValueError(
            f"{type(model).__name__} returns no pair (logits, mapping) for probes={tuple(names)};\n"
            f"{WANTED}"
        )
    missing = [name for name in names if name not in result[1]]
    if missing:
        raise ValueError(
            f"{type(model).__name__} returns no activations of {', '.join(missing)}, but of "
            f"{', '.join(map(str, result[1])) or 'none'};\n{WANTED}"
        )
    for name in names:
        shape = result[1][name].shape
        if shape[:1] != (CHECKED,):
            raise ValueError(
                f"the activations of {name} have shape {shape} for {CHECKED} inputs;\n"
                "give (n, …), samples first"
            )


@contextmanager
def _explained(
    model: nn.Module, shape: tuple[int, ...], dtype: Any, arguments: str = ""
) -> Iterator[None]:
    """Turn an error inside the model, of whatever kind, into a message with what is wanted."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        reason = lines[0].split(" (http")[0][:200]  # Flax ends its errors with an address
        call = f"{type(model).__name__} called with inputs {jnp.dtype(dtype).name} {shape}"
        raise ValueError(
            f"{call}{' and ' * bool(arguments)}{arguments} fails with "
            f"{type(error).__name__}: {reason};\n{WANTED}"
        ) from None


@jit(static_argnames=("model", "shape", "dtype"), fast_compile=True)
def _init(key: jax.Array, model: nn.Module, shape: tuple[int, ...], dtype: Any) -> Variables:
    return model.init(key, jnp.zeros((1, *shape), dtype), **_evaluation(model))


def _evaluation(model: nn.Module) -> dict[str, Any]:
    return {"train": False} if trains_differently(model) else {}


def _columns(output: Any) -> Any:
    """Return one logit (n,) as (n, 1), and anything else as it is."""
    return output[:, None] if getattr(output, "ndim", None) == 1 else output


def _kinds(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def _batch(inputs: Array) -> jax.ShapeDtypeStruct:
    """Return the shape and type of `CHECKED` inputs on a device."""
    dtype = jax.dtypes.canonicalize_dtype(inputs.dtype)
    return jax.ShapeDtypeStruct((CHECKED, *inputs.shape[1:]), dtype)
