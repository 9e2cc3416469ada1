"""jit with options: the same results, one compilation, and a part of what traces it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax import compilation
from mine_jax.compilation import jit


@pytest.mark.parametrize("seldom", [False, True])
def test_it_computes_what_the_function_does_and_compiles_once_for_a_shape(seldom):
    @jit(static_argnames=("power",), seldom=seldom)
    def raised(values, power):
        """Named as it was."""
        return values**power

    values = jnp.arange(4.0)
    np.testing.assert_allclose(raised(values, power=3), np.arange(4.0) ** 3)
    raised(values + 1, power=3)
    assert raised.cache_size() == 1
    raised(values, power=2)
    assert raised.cache_size() == 2
    assert raised.__name__ == "raised"
    assert raised.__doc__ == "Named as it was."


def test_it_is_a_part_of_what_traces_it():
    @jit()
    def twice(values):
        return 2 * values

    assert jax.jit(lambda values: twice(values) + 1)(3.0) == 7
    assert jax.grad(twice)(3.0) == 2
    assert twice.cache_size() == 0


def test_what_is_called_seldom_is_optimised_less():
    usual, seldom = (compilation.options("cpu", flag) for flag in (False, True))
    assert usual["xla_backend_optimization_level"] == 1
    assert seldom["xla_backend_optimization_level"] == 0
    assert compilation.options("tpu") == {}


def test_an_option_that_jax_does_not_know_is_left_out(monkeypatch):
    known = {"xla_backend_optimization_level": 1}
    monkeypatch.setattr(compilation, "_OPTIONS", {"cpu": known | {"xla_no_such_option": 1}})
    compilation.known_options.cache_clear()
    assert compilation.options("cpu") == known
    compilation.known_options.cache_clear()
