"""Tests of the convolutions: both forms against Flax, gradients of tied maxima."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mine_jax.lenet.convolution import FORMS, Conv, largest


@pytest.mark.parametrize(
    ("shape", "features", "kernel_size", "padding"),
    [
        ((3, 28, 28, 1), 6, 5, 2),
        ((3, 14, 14, 6), 16, 5, 0),
        ((2, 6, 12, 3), 4, 3, 1),
        ((2, 10, 6, 1), 2, 1, 0),
    ],
)
def test_conv_each_form_equals_flax(shape, features, kernel_size, padding):
    images = np.random.default_rng(2).standard_normal(shape, np.float32)
    reference = nn.Conv(features, (kernel_size, kernel_size), padding=padding)

    @jax.jit
    def outputs(images):
        params = reference.init(jax.random.key(3), images)
        params = jax.tree.map(lambda p: p + 0.1, params)  # the biases start at zero
        convs = (Conv(features, kernel_size, padding, form) for form in FORMS)
        expected = reference.apply(params, images)
        pooled = nn.max_pool(nn.relu(expected), (2, 2), (2, 2))
        return (expected, pooled), [conv.apply(params, images) for conv in convs]

    expected, both = outputs(images)
    for values in both:
        for result, reference_values in zip(values, expected, strict=True):
            np.testing.assert_allclose(result, reference_values, atol=1e-5)


@pytest.mark.parametrize(
    ("members", "expected"),
    [([1, 1, 1, 1], [0.25] * 4), ([0, 3, 1, 2], [0, 1, 0, 0]), ([5, 3, 5, 2], [0.5, 0, 0.5, 0])],
)
def test_largest_tied_maxima_share_the_gradient(members, expected):
    gradient = jax.grad(lambda values: largest(values).sum())
    np.testing.assert_array_equal(gradient(jnp.array(members, float)), expected)
