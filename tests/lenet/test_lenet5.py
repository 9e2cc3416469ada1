"""Tests of LeNet-5: number of parameters, probes that agree with each other, rejected input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mine_jax import lenet

SHAPES = {
    "conv1": (28, 28, 6),
    "relu1": (28, 28, 6),
    "pool1": (14, 14, 6),
    "conv2": (10, 10, 16),
    "relu2": (10, 10, 16),
    "pool2": (5, 5, 16),
    "relu3": (120,),
    "relu4": (84,),
    "logits": (10,),
    "softmax": (10,),
}


@functools.cache
def some_images():
    """Images with a flat border, as MNIST has, so that pooling windows contain ties."""
    inside = np.random.default_rng(0).random((5, 16, 18, 1), np.float32)
    return np.pad(inside, ((0, 0), (6, 6), (5, 5), (0, 0)))


@functools.cache
def some_params():
    """Parameters of the right scale, with nonzero biases so that a misplaced one shows."""
    shapes = jax.eval_shape(lenet.LeNet5().init, jax.random.key(1), some_images())
    rng = np.random.default_rng(1)

    def draw(leaf):
        scale = 0.05 if len(leaf.shape) == 1 else np.prod(leaf.shape[:-1]) ** -0.5
        return (scale * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(draw, shapes)


@functools.cache
def all_probes():
    apply = functools.partial(lenet.LeNet5().apply, probes=lenet.PROBE_POINTS)
    return jax.jit(apply)(some_params(), some_images())


def apply_abstractly(model, images, names=()):
    return jax.eval_shape(lambda: model.apply(some_params(), images, probes=names))


def test_lenet5_has_the_published_number_of_parameters():
    assert sum(leaf.size for leaf in jax.tree.leaves(some_params())) == 61_706


def test_lenet5_probes_have_their_shapes():
    shapes = {name: values.shape for name, values in all_probes()[1].items()}
    assert shapes == {name: (5, *shape) for name, shape in SHAPES.items()}


def test_lenet5_probes_keep_the_requested_order_and_the_logits():
    model, names = lenet.LeNet5(), ("softmax", "conv1", "relu3")
    plain = jax.jit(model.apply)(some_params(), some_images())
    np.testing.assert_allclose(all_probes()[0], plain, atol=1e-6)
    orders = []

    def note_order(images):
        orders.append(tuple(model.apply(some_params(), images, probes=names)[1]))

    jax.eval_shape(note_order, some_images())
    assert orders == [names]


def test_lenet5_probes_agree_with_each_other():
    logits, probes = all_probes()
    params = some_params()["params"]
    for i in ("1", "2"):
        relu = np.maximum(probes["conv" + i], 0)
        np.testing.assert_array_equal(probes["relu" + i], relu)
        n, h, w, c = relu.shape
        # The bias can be added before or after the maximum: the same, rounding included.
        pooled = relu.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
        np.testing.assert_array_equal(probes["pool" + i], pooled)
    below = np.asarray(probes["pool2"]).reshape(5, 400)
    for dense, above in (("dense1", "relu3"), ("dense2", "relu4")):
        expected = np.maximum(below @ params[dense]["kernel"] + params[dense]["bias"], 0)
        np.testing.assert_allclose(probes[above], expected, atol=1e-5)
        below = np.asarray(probes[above])
    expected = below @ params["dense3"]["kernel"] + params["dense3"]["bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_array_equal(probes["logits"], logits)
    np.testing.assert_allclose(probes["softmax"], jax.nn.softmax(logits), rtol=1e-5)


def test_lenet5_conv_forms_have_equal_gradients():
    labels = jnp.arange(5)

    def gradients(form):
        model = lenet.LeNet5(conv_form=form)

        def loss(params, images):
            logits = model.apply(params, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.jit(jax.grad(loss, (0, 1)))(some_params(), some_images())

    patches, native = gradients("patches"), gradients("native")
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(patches))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), patches, native)


def test_lenet5_num_classes_sets_the_number_of_logits():
    init = lenet.LeNet5(num_classes=3).init_with_output
    logits, _ = jax.eval_shape(init, jax.random.key(0), some_images())
    assert logits.shape == (5, 3)


@pytest.mark.parametrize("names", [("conv1", "conv9"), "conv1"])
def test_lenet5_unknown_probe_raises_with_the_known_names(names):
    with pytest.raises(ValueError, match=r"unknown probes.*choose from.*conv1.*softmax"):
        apply_abstractly(lenet.LeNet5(), some_images(), names)


@pytest.mark.parametrize("shape", [(28, 28, 1), (2, 28, 28, 3), (2, 784)])
def test_lenet5_images_of_another_shape_raise(shape):
    with pytest.raises(ValueError, match="images have shape"):
        apply_abstractly(lenet.LeNet5(), jnp.zeros(shape))


def test_lenet5_unknown_conv_form_raises():
    with pytest.raises(ValueError, match="conv_form is 'fast'"):
        apply_abstractly(lenet.LeNet5(conv_form="fast"), some_images())
