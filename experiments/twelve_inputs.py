"""The information plane of a tanh network on twelve binary inputs, beside exact values.

  python experiments/twelve_inputs.py

The task of Shwartz-Ziv and Tishby 2017, "Opening the black box of deep neural networks via
information": all 4,096 patterns of twelve bits are known, so that the values of observed layers are
known, too, and estimates can be compared with them; 30 bins, as in that paper, are beside. Writes
the plane, a table and a figure into --out_dir.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import common
import numpy as np
from absl import flags

if TYPE_CHECKING:  # imported where needed, so that --help answers at once
    from matplotlib.figure import Figure

    from mine_jax import Plane
    from mine_jax.information_plane import PlaneConfig

Row = Mapping[str, Any]

TITLE = "Twelve binary inputs: estimates beside exact values"
UNITS = (10, 7, 5, 4, 3, 2)  # of the network of the paper, whose last layer is softmax
WEIGHT, THRESHOLD = 0.9, 3.2  # give the labels of the data file of the paper's authors
INFORMATION_BITS = 0.99  # I(X;Y) that the paper chose the gain for
BATCH_SIZE, TRAIN_FRACTION = 512, 0.8

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(common)
flags.DEFINE_list("epochs", ["0", "20", "100", "500"], "Epochs whose layers are measured.")
flags.DEFINE_float("learning_rate", 2e-3, "Step size of Adam.")
flags.DEFINE_string("out_dir", "runs/twelve_inputs", "New folder for plane, table and figure.")
flags.DEFINE_integer("seed", 0, "Seed of labels, weights and batches.")
flags.DEFINE_integer("max_steps", None, "Maximum number of steps of the statistics networks.")


# --- The task -------------------------------------------------------------------------------------


class Task(NamedTuple):
    """All patterns of twelve bits, equally likely.

    Attributes:
      inputs: X, −1 or 1, (4096, 12), float32.
      score: f(x), the rotation-invariant score, (4096,).
      probability: P(Y = 1 | X = x), (4096,).
    """

    inputs: np.ndarray
    score: np.ndarray
    probability: np.ndarray


def twelve_inputs() -> Task:
    """Enumerate the task.

    The bits are on the sphere, at the corners v_i of an icosahedron, and the score of a pattern of
    signs s is made of its spherical harmonics of degrees 0 and 1,
      f(s) = 0.9 Σ_i s_i + |Σ_i s_i v_i|,
    so that all rotations of a pattern have one label; f > 3.2 gives every label of the data that
    the paper's authors published. As in the paper the labels are softened,
    P(Y = 1 | x) = 1/(1 + exp(−γ(f(x) − 3.2))), with γ such that I(X;Y) is 0.99 bits.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    golden = (1 + math.sqrt(5)) / 2
    corners = np.array([(0, a, b * golden) for a in (1, -1) for b in (1, -1)])
    corners = np.concatenate([np.roll(corners, k, axis=1) for k in range(3)])
    corners /= math.hypot(1, golden)
    signs = 2.0 * (np.arange(4096)[:, None] >> np.arange(12) & 1) - 1
    score = WEIGHT * signs.sum(axis=1) + np.linalg.norm(signs @ corners, axis=1)

    def excess(gain: float) -> float:
        probability = expit(gain * (score - THRESHOLD))
        return information(probability) - INFORMATION_BITS * math.log(2)

    gain = brentq(excess, 1, 100)
    return Task(signs.astype(np.float32), score, expit(gain * (score - THRESHOLD)))


def information(probability: np.ndarray) -> float:
    """Return I(X;Y) = H(Y) − H(Y|X) in nats, of P(Y = 1 | x) of equally likely x, (n,)."""
    from scipy.special import entr

    def entropy(p: Any) -> Any:
        return entr(p) + entr(1 - p)

    return float(entropy(probability.mean()) - entropy(probability).mean())


# --- The network ----------------------------------------------------------------------------------


def snapshots(
    inputs: np.ndarray, labels: np.ndarray, epochs: Sequence[int]
) -> Iterator[tuple[int, dict[str, np.ndarray], float]]:
    """Train the network, and yield epoch, layers of all inputs, and accuracy on held-out ones.

    Args:
      inputs: X, (n, 12).
      labels: Y, (n,), 0 or 1.
      epochs: epochs to yield, ascending.
    """
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn

    class Network(nn.Module):
        """A tanh multilayer perceptron that returns all its layers, softmax last."""

        @nn.compact
        def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
            layers = {}
            for i, units in enumerate(UNITS[:-1]):
                x = layers[f"tanh{i + 1}"] = nn.tanh(nn.Dense(units)(x))
            return layers | {"softmax": nn.softmax(nn.Dense(UNITS[-1])(x))}

    network, optimizer = Network(), optax.adam(FLAGS.learning_rate)
    init_key, key = jax.random.split(jax.random.key(FLAGS.seed))
    params = network.init(init_key, inputs[:1])
    order = jax.random.permutation(jax.random.fold_in(key, 0), len(inputs))
    train, held_out = jnp.split(order, [round(TRAIN_FRACTION * len(inputs))])
    x, y = jnp.asarray(inputs), jnp.asarray(labels)

    def loss(params: Any, rows: jax.Array) -> jax.Array:
        predicted = network.apply(params, x[rows])["softmax"]
        return -jnp.log(jnp.take_along_axis(predicted, y[rows, None], axis=1) + 1e-12).mean()

    @jax.jit
    def train_epoch(params: Any, state: Any, key: jax.Array) -> tuple[Any, Any]:
        rows = jax.random.permutation(key, train)
        batches = rows[: len(rows) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)

        def step(carry: tuple[Any, Any], batch: jax.Array) -> tuple[tuple[Any, Any], None]:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params, batch), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), batches)[0]

    state = optimizer.init(params)
    for epoch in range(epochs[-1] + 1):
        if epoch:
            params, state = train_epoch(params, state, jax.random.fold_in(key, epoch))
        if epoch in epochs:
            layers = {name: np.asarray(of) for name, of in network.apply(params, x).items()}
            predicted = layers["softmax"].argmax(axis=1)
            yield epoch, layers, float(np.mean((predicted == labels)[np.asarray(held_out)]))


# --- Results --------------------------------------------------------------------------------------


def report(plane: "Plane", task: Task) -> str:
    """Return the table of estimates beside exact and binned values, and what the values are of."""
    head = ["epoch", "layer"]
    for of in ("I(X;T)", "I(Y;T)"):
        head += [f"{of} exact", "estimate", "30 bins"]
    rows = {(row["epoch"], row["layer"], row["variable"]): row for row in plane.records}
    lines = []
    for epoch, layer in dict.fromkeys(place[:2] for place in rows):
        line = [str(epoch), layer]
        for variable in "xy":
            row = rows[epoch, layer, variable]
            mark = "*" if row["warnings"] or not row["converged"] else ""
            line += [
                number(row, "reference_nats", 3),
                f"{number(row, 'mi_nats', 3)} ± {number(row, 'stderr', 3)}{mark}",
                number(row, "bins_nats", 3),
            ]
        lines.append(line)
    entropy = plane.description["class_entropy_nats"]
    differences = {
        of: [row["mi_nats"] - row["reference_nats"] for row in rows.values() if matches(row, of)]
        for of in "xy"
    }
    known = (
        f"I(X;Y) is {information(task.probability):.4f} nats "
        f"({information(task.probability) / math.log(2):.3f} bits) and P(Y = 1) "
        f"{task.probability.mean():.4f}, exactly. One label is drawn for each of the "
        f"{len(task.inputs):,} patterns; these pairs are the whole population of all values below, "
        f"where H(Y) = I(X;Y) = {entropy:.4f} nats."
    )
    errors = ", ".join(
        f"I({of.upper()};T) {common.mean(map(abs, values)):.3f} (largest "
        f"{max(map(abs, values), default=math.nan):.3f})"
        for of, values in differences.items()
    )
    return "\n\n".join(
        [
            known,
            "T = L + σε with σ = c·√(trace of the layer's covariance), "
            f"c = {plane.description['noise_level']:.3f}. Exact: over all patterns, up to the mean "
            "over one draw of noise each. Estimates: ± standard error, from the "
            f"{plane.description['report_size']:,} test samples (* flagged with a warning). Bins "
            "are those of the layers without noise, between their smallest and largest activation, "
            "and no estimate of the same quantity. In nats:",
            common.markdown_table(head, lines),
            f"Mean absolute differences of estimates from exact values: {errors} nats.",
        ]
    )


def number(row: Row, name: str, digits: int) -> str:
    """Format a value of a row, a dash where it has none."""
    return common.number(math.nan if row[name] is None else row[name], f".{digits}f")


def matches(row: Row, variable: str) -> bool:
    """Tell whether a row is of that variable and has an estimate."""
    return row["variable"] == variable and row["mi_nats"] is not None


def draw(plane: "Plane", path: str | os.PathLike | None = None) -> "Figure":
    """Draw the plane of the literature, by bins, beside the observed one with exact values.

    Args:
      plane: its records have `bins_nats` and `reference_nats`.
      path: PNG file to write; a PDF of the same name is written beside it. None for no file.
    """
    from matplotlib.figure import Figure

    from mine_jax.information_plane import figure_style as style

    fig = Figure(figsize=(style.FULL_WIDTH, 3.9), dpi=style.DPI, layout="constrained")
    panels = fig.subplots(1, 2, sharey=True)
    looks = style.layer_looks(dict.fromkeys(row["layer"] for row in plane.records))
    epochs = sorted({row["epoch"] for row in plane.records})
    for layer, look in looks.items():
        for ax, name in zip(panels, ("bins_nats", "mi_nats"), strict=True):
            x, y, exact_x, exact_y = (
                [
                    math.nan if row[key] is None else row[key]
                    for row in plane.records
                    if (row["layer"], row["variable"]) == (layer, variable)
                ]
                for key in (name, "reference_nats")
                for variable in "xy"
            )
            ax.plot(x, y, label=layer, **look | {"linewidth": 0.8})
            if name == "mi_nats":
                circle = {"marker": "o", "markersize": 8, "markerfacecolor": "none"}
                circle |= {"linestyle": "none", "markeredgewidth": 0.6, "color": look["color"]}
                ax.plot(exact_x, exact_y, label=f"exact {layer}", **circle)
    for ax, title, symbol in zip(
        panels,
        ("As in the literature: 30 bins", "Observed with noise"),
        ("bin(L)", "T"),
        strict=True,
    ):
        ax.set_title(title, fontsize=style.NORMAL, loc="left")
        ax.set_xlabel(f"I(X; {symbol}) (nats)", fontsize=style.NORMAL)
        ax.set_ylabel(f"I(Y; {symbol}) (nats)", fontsize=style.NORMAL)
        style.style_axes(ax)
        style.draw_limit(ax, "y", plane.description["class_entropy_nats"], "H(Y)", "left")
    exact = {"marker": "o", "markersize": 7, "markerfacecolor": "none", "linestyle": "none"}
    entries = looks | {"exact value": exact | {"markeredgewidth": 0.6, "color": style.INK}}
    style.add_legend(fig, entries, loc="outside upper center", ncols=len(entries))
    style.add_caption(
        fig,
        f"A tanh network on all {plane.description['probe_size']:,} patterns of twelve bits, "
        f"epochs {', '.join(map(str, epochs))}. Left: layers as they are, in bins. Right: "
        "estimates, and the exact values of the same noisy layers.",
    )
    return style.save(fig, path)


def measured_epochs() -> list[int]:
    """Return --epochs; ValueError if they are no ascending numbers."""
    try:
        epochs = [int(text) for text in FLAGS.epochs]
    except ValueError:
        raise ValueError(f"--epochs must be whole numbers, got {FLAGS.epochs}") from None
    if not epochs or epochs != sorted(set(epochs)) or epochs[0] < 0:
        raise ValueError(f"--epochs must be ascending and at least 0, got {FLAGS.epochs}")
    return epochs


def plane_config() -> "PlaneConfig":
    """Return the configuration that the flags describe; ValueError names a wrong flag."""
    import dataclasses

    from mine_jax.information_plane import PlaneConfig

    if not 0 < FLAGS.learning_rate < math.inf:
        raise ValueError(f"--learning_rate must be positive and finite, got {FLAGS.learning_rate}")
    if not 0 <= FLAGS.seed < 1 << 32:
        raise ValueError(f"--seed must be from 0 to 2**32 - 1, got {FLAGS.seed}")
    config = PlaneConfig(population=True, also=("bins",))
    if FLAGS.max_steps is None:
        return config
    steps = {"max_steps": FLAGS.max_steps}
    networks = {
        name: dataclasses.replace(getattr(config, name), **steps)
        for name in ("noisy_x_mine", "noisy_y_mine")
    }
    return dataclasses.replace(config, **networks)


def experiment() -> None:
    """Validate, train and measure, print, draw."""
    with common.user_errors():
        epochs, config = measured_epochs(), plane_config()
        common.select_devices()
        from mine_jax import Plane, Recorder
        from mine_jax.information_plane import records

        folder = records.RunFolder(FLAGS.out_dir)
        folder.check(resume=False)
        folder.create()
    task = twelve_inputs()
    drawn = np.random.default_rng(FLAGS.seed).random(len(task.inputs))
    labels = (drawn < task.probability).astype(np.int32)
    training = []
    with common.device_mesh():
        recorder = Recorder(labels, config=config, when="now", name="twelve binary inputs")
        for epoch, layers, accuracy in snapshots(task.inputs, labels, epochs):
            recorder.add(epoch, layers)
            training.append({"seed": FLAGS.seed, "epoch": epoch, "test_accuracy": accuracy})
            print(f"epoch {epoch}: accuracy {accuracy:.3f} on held-out patterns", flush=True)
    found = recorder.plane()
    plane = Plane(found.records, found.description, tuple(training))
    plane.save(folder.path)
    text = report(plane, task)
    print(f"\n{text}\n")
    (folder.path / "twelve_inputs.md").write_text(f"# {TITLE}\n\n{text}\n")
    figure = folder.path / "twelve_inputs.png"
    draw(plane, figure)
    if FLAGS.publish:
        common.write_page("twelve_inputs", TITLE, text, [figure])
    print(f"Written to {os.path.relpath(folder.path)}")


if __name__ == "__main__":
    common.run(experiment)
