"""Stacks of networks: their samples, their parameters, and both ways to run them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax.mine import stack
from mine_jax.mine.stack import Samples

from .common import assert_trees_equal, labels, normal, samples


def test_stack_samples_pads_and_holds_shared_arrays_once():
    x, z = samples()
    noisy = Samples(z["narrow"], x, 0.5)
    data = stack.stack_samples([(Samples(x), noisy), (Samples(x), Samples(z["wide"]))], repeats=2)
    assert data.x.measured.shape == (1, 240, 3)
    assert data.x.noiseless is None
    np.testing.assert_array_equal(data.x.index, [0, 0, 0, 0])
    np.testing.assert_array_equal(data.z.index, [0, 0, 1, 1])
    np.testing.assert_array_equal(data.z.columns, [3, 7])
    np.testing.assert_array_equal(data.z.measured[0], np.pad(z["narrow"], ((0, 0), (0, 4))))
    np.testing.assert_array_equal(data.z.measured[1], z["wide"])
    # An array without noise beside one with noise.
    np.testing.assert_array_equal(data.z.noiseless[0, :, :3], x)
    np.testing.assert_array_equal(data.z.noiseless[1], z["wide"])
    np.testing.assert_array_equal(data.z.noise_std, np.float32([0.5, 0]))


def test_stack_samples_one_array_with_two_noise_levels_is_two():
    x, z = samples()
    pairs = [(Samples(x), Samples(z["narrow"], z["narrow"], std)) for std in (0.1, 0.9, 0.1)]
    side = stack.stack_samples(pairs).z
    np.testing.assert_array_equal(side.noise_std[side.index], np.float32([0.1, 0.9, 0.1]))
    assert side.measured.shape[0] == 2


def test_stack_samples_of_noise_alone_shares_the_array_without_noise():
    quiet = normal(0, 6, 3), normal(1, 6, 2)
    pairs = [(Samples(each + 1, each, 0.5), Samples(each)) for each in quiet]
    data = stack.stack_samples(pairs)
    assert stack.is_noise_alone(pairs)
    assert data.x.noiseless is data.z.measured
    np.testing.assert_array_equal(data.x.noiseless[1, :, :2], quiet[1])
    np.testing.assert_array_equal(data.x.noise_std, [0.5, 0.5])
    swapped = [(pairs[0][0], pairs[1][1]), (pairs[1][0], pairs[0][1])]
    for others in (swapped, [pairs[0], pairs[0]]):  # other arrays, and one array for two networks
        assert not stack.is_noise_alone(others)


def test_take_rows_of_labels_is_float():
    rows = stack.take_rows(jnp.asarray(labels())[None], 0, jnp.array([5, 2]))
    assert rows.dtype == jnp.float32
    np.testing.assert_array_equal(rows, labels()[[5, 2]])


@pytest.mark.parametrize("active", [None, [True, False, True]])
def test_map_networks_vmap_and_map_agree(active):
    tree, vector = {"a": jnp.asarray(normal(0, 3, 4))}, jnp.asarray(normal(1, 3))
    otherwise = {"sum": jnp.full(3, 7.0), "scaled": -tree["a"]}

    def function(tree, number):
        return {"sum": jnp.sum(tree["a"]) + number, "scaled": tree["a"] * number}

    chosen = np.array([True] * 3 if active is None else active)
    expected = {
        "sum": np.where(chosen, tree["a"].sum(1) + vector, 7.0),
        "scaled": np.where(chosen[:, None], tree["a"] * vector[:, None], -tree["a"]),
    }
    active = None if active is None else chosen
    for mapper in ("vmap", "map"):
        got = stack.map_networks(mapper, function, tree, vector, active=active, otherwise=otherwise)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)


def test_select_and_concatenate_are_inverse_and_resize_to_its_like():
    tree = {"a": normal(0, 5, 2), "b": normal(1, 5)}
    parts = [stack.select(tree, slice(0, 2)), stack.select(tree, slice(2, 5))]
    assert_trees_equal(stack.concatenate(parts), tree)
    padded = stack.resize(tree, {"a": np.zeros((5, 4)), "b": np.zeros(5)})
    np.testing.assert_array_equal(padded["a"], np.pad(tree["a"], ((0, 0), (0, 2))))
    assert_trees_equal(stack.resize(padded, tree), tree)


def test_pairs_of_mappings_are_sorted():
    assert stack.pairs_of({"q": 0, "p": 0}, {"b": 0, "a": 0}) == (
        *(("p", "a"), ("p", "b"), ("q", "a"), ("q", "b")),
    )
    assert stack.pairs_of(samples()[0], {"b": 0}) == (("", "b"),)
