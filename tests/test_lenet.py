"""LeNet-5: shapes, probes that agree with each other, and forms of convolution that do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

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
    """Images with a flat border, as MNIST has, so that pooling windows hold ties."""
    inside = np.random.default_rng(0).random((5, 16, 18, 1), np.float32)
    return np.pad(inside, ((0, 0), (6, 6), (5, 5), (0, 0)))


@functools.cache
def some_params():
    """Parameters of the right scale, with biases off zero so that a misplaced one is seen."""
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


def test_the_parameters_have_the_standard_layout_and_number():
    params = some_params()["params"]
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == {
        "conv1": {"kernel": (5, 5, 1, 6), "bias": (6,)},
        "conv2": {"kernel": (5, 5, 6, 16), "bias": (16,)},
        "dense1": {"kernel": (400, 120), "bias": (120,)},
        "dense2": {"kernel": (120, 84), "bias": (84,)},
        "dense3": {"kernel": (84, 10), "bias": (10,)},
    }
    assert sum(p.size for p in jax.tree.leaves(params)) == 61_706


def test_the_probe_points_are_in_order_of_depth():
    assert tuple(SHAPES) == lenet.PROBE_POINTS
    assert lenet.DEFAULT_PROBES == ("conv1", "conv2", "relu3", "softmax")


@pytest.mark.parametrize("name", SHAPES)
def test_a_probe_has_its_shape(name):
    assert all_probes()[1][name].shape == (5, *SHAPES[name])


def test_probes_come_in_the_asked_order_and_leave_the_logits_alone():
    model, names = lenet.LeNet5(), ("softmax", "conv1", "relu3")
    plain = jax.jit(model.apply)(some_params(), some_images())
    np.testing.assert_allclose(all_probes()[0], plain, atol=1e-6)
    orders = []

    def note_order(images):
        orders.append(tuple(model.apply(some_params(), images, probes=names)[1]))

    jax.eval_shape(note_order, some_images())
    assert orders == [names]


def windows_max(images):
    n, h, w, c = images.shape
    return np.asarray(images).reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


def test_the_probes_agree_with_each_other():
    logits, p = all_probes()
    params = some_params()["params"]
    for i in ("1", "2"):
        np.testing.assert_array_equal(p["relu" + i], np.maximum(p["conv" + i], 0))
        # Adding the bias after the maximum or before it is the same, rounding included.
        np.testing.assert_array_equal(p["pool" + i], windows_max(p["relu" + i]))
    below = np.asarray(p["pool2"]).reshape(5, 400)
    for dense, above in (("dense1", "relu3"), ("dense2", "relu4")):
        expected = np.maximum(below @ params[dense]["kernel"] + params[dense]["bias"], 0)
        np.testing.assert_allclose(p[above], expected, atol=1e-5)
        below = np.asarray(p[above])
    expected = below @ params["dense3"]["kernel"] + params["dense3"]["bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_array_equal(p["logits"], logits)
    np.testing.assert_allclose(p["softmax"], jax.nn.softmax(logits), rtol=1e-5)
    np.testing.assert_allclose(p["softmax"].sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "features", "kernel_size", "padding"),
    [
        ((3, 28, 28, 1), 6, 5, 2),
        ((3, 14, 14, 6), 16, 5, 0),
        ((2, 8, 10, 2), 3, 3, 0),
        ((2, 6, 12, 3), 4, 3, 1),
        ((2, 10, 6, 1), 2, 1, 0),
    ],
)
def test_every_form_of_convolution_equals_that_of_flax(shape, features, kernel_size, padding):
    images = np.random.default_rng(2).standard_normal(shape, np.float32)
    reference = nn.Conv(features, (kernel_size, kernel_size), padding=padding)
    native, patches = (
        lenet.Conv(features, kernel_size, padding, form) for form in ("native", "patches")
    )

    @jax.jit
    def outputs(images):
        params = native.init(jax.random.key(3), images)
        params = jax.tree.map(lambda p: p + 0.1, params)
        by_patches = patches.apply(params, jnp.moveaxis(images, 0, -1))
        by_patches = tuple(jnp.moveaxis(part, -1, 0) for part in by_patches)
        return reference.apply(params, images), native.apply(params, images), by_patches

    expected, *got = outputs(images)
    for conv, pooled in got:
        np.testing.assert_allclose(conv, expected, atol=1e-5)
        np.testing.assert_allclose(pooled, windows_max(np.maximum(expected, 0)), atol=1e-5)


def test_the_forms_have_equal_gradients():
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


def test_tied_maxima_share_one_gradient():
    gradient = jax.grad(lambda x: lenet._largest(x).sum())
    np.testing.assert_array_equal(gradient(jnp.ones((4, 3))), np.full((4, 3), 0.25))
    distinct = jnp.array([[0.0], [3.0], [1.0], [2.0]])
    np.testing.assert_array_equal(gradient(distinct).ravel(), [0, 1, 0, 0])
    pair = jnp.array([[5.0], [3.0], [5.0], [2.0]])
    np.testing.assert_array_equal(gradient(pair).ravel(), [0.5, 0, 0.5, 0])


def test_num_classes_sets_the_width_of_the_logits():
    logits = jax.eval_shape(
        lambda: lenet.LeNet5(num_classes=3).init_with_output(jax.random.key(0), some_images())[0]
    )
    assert logits.shape == (5, 3)


def apply_abstractly(model, images, names=()):
    return jax.eval_shape(lambda: model.apply(some_params(), images, probes=names))


@pytest.mark.parametrize("names", [("conv1", "conv9"), ("Conv1",), "conv1"])
def test_an_unknown_probe_is_refused_with_the_known_names(names):
    with pytest.raises(ValueError, match=r"unknown probes.*choose from.*conv1.*softmax"):
        apply_abstractly(lenet.LeNet5(), some_images(), names)


@pytest.mark.parametrize("shape", [(28, 28, 1), (2, 32, 32, 1), (2, 28, 28, 3), (2, 784)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="images have shape"):
        apply_abstractly(lenet.LeNet5(), jnp.zeros(shape))


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="conv_form is 'fast'"):
        apply_abstractly(lenet.LeNet5(conv_form="fast"), some_images())
