"""Class labels and logits: which labels fit, the loss, the predicted class.

One logit stands for two classes: it is ln p(1|x) − ln p(0|x).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Array = jax.Array | np.ndarray
AS_CODES = "np.unique(labels, return_inverse=True)[1]"


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute the mean cross-entropy of logits (n, classes) or (n, 1) and labels (n,), in nats."""
    if logits.shape[-1] == 1:
        targets = labels.astype(logits.dtype)
        return optax.sigmoid_binary_cross_entropy(logits[:, 0], targets).mean()
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def predicted(logits: jax.Array) -> jax.Array:
    """Return the most probable classes, (n,), int32, for logits (n, classes) or (n, 1)."""
    if logits.shape[-1] == 1:
        return (logits[:, 0] > 0).astype(jnp.int32)
    return logits.argmax(axis=-1)


def check_integers(inputs: Array, labels: Array) -> None:
    """Check that labels are integers, one for each input.

    Args:
      inputs: (n, …).
      labels: (n,).

    Raises:
      ValueError: if they are not.
    """
    wanted = inputs.shape[:1]
    if labels.shape == wanted and np.issubdtype(labels.dtype, np.integer):
        return
    text = (
        f"labels are {labels.dtype} of shape {labels.shape}; give integers of shape {wanted}, one "
        "for each image"
    )
    if labels.ndim == 2 and labels.shape[:1] == wanted:
        text += ": labels.argmax(axis=1) of one-hot labels, labels[:, 0] of a column"
    elif labels.shape == wanted:
        text += f": the codes {AS_CODES} of classes; mine_jax.Recorder takes numbers as targets"
    raise ValueError(text)


def check_range(labels: Array, num_logits: int) -> None:
    """Check that labels are classes of a model.

    Args:
      labels: (n,), integers.
      num_logits: number of the model's logits; 1 for two classes.

    Raises:
      ValueError: if a label is not in 0 … classes − 1.
    """
    classes = max(num_logits, 2)
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low >= 0 and high < classes:
        return
    values: Any = np.unique(labels)
    low, high = int(values[0]), int(values[-1])
    if low == 1 and high == classes:
        got, remedy = f"{low} to {high}", "subtract 1"
    elif len(values) == 2:
        got, remedy = f"{low} and {high}", f"give 0 and 1, {AS_CODES}"
    elif len(values) <= classes:
        got, remedy = f"{low} to {high}", f"give the codes {AS_CODES}"
    else:
        got = f"{low} to {high}, {len(values)} different ones"
        remedy = f"give the model {len(values)} logits"
    logits = "1 logit" if num_logits == 1 else f"{num_logits} logits"
    raise ValueError(
        f"labels must be in 0 … {classes - 1}, as the model has {logits}; got {got}: {remedy}"
    )
