"""Tests of LeNet-5: number of parameters, probes that agree with each other, rejected input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mine_jax import lenet


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


def test_lenet5_has_the_published_shapes_and_number_of_parameters():
    assert sum(leaf.size for leaf in jax.tree.leaves(some_params())) == 61_706
    shapes = {name: values.shape[1:] for name, values in all_probes()[1].items()}
    assert shapes == {
        **dict.fromkeys(("conv1", "relu1"), (28, 28, 6)),
        **dict.fromkeys(("conv2", "relu2"), (10, 10, 16)),
        **{"pool1": (14, 14, 6), "pool2": (5, 5, 16), "relu3": (120,), "relu4": (84,)},
        **dict.fromkeys(("logits", "softmax"), (10,)),
    }
    init = lenet.LeNet5(num_classes=3).init_with_output
    assert jax.eval_shape(init, jax.random.key(0), some_images())[0].shape == (5, 3)


def test_lenet5_probes_keep_the_requested_order_and_the_logits():
    model, names, orders = lenet.LeNet5(), ("softmax", "conv1", "relu3"), []

    @jax.jit
    def plain(params, images):
        orders.append(tuple(model.apply(params, images, probes=names)[1]))
        return model.apply(params, images)

    np.testing.assert_allclose(all_probes()[0], plain(some_params(), some_images()), atol=1e-6)
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


@pytest.mark.parametrize(
    ("form", "shape", "names", "message"),
    [
        ("native", (5, 28, 28, 1), ("conv1", "conv9"), r"unknown probes.*from.*conv1.*softmax"),
        ("native", (5, 28, 28, 1), "conv1", r"unknown probes.*from.*conv1.*softmax"),
        ("native", (28, 28, 1), (), "images have shape"),
        ("native", (2, 28, 28, 3), (), "images have shape"),
        ("native", (2, 784), (), "images have shape"),
        ("fast", (5, 28, 28, 1), (), "conv_form is 'fast'"),
    ],
)
def test_lenet5_wrong_argument_raises_with_its_name(form, shape, names, message):
    model = lenet.LeNet5(conv_form=form)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: model.apply(some_params(), jnp.zeros(shape), probes=names))
