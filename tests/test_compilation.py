"""Tests of `jit`: results, number of compilations, use inside other traces, compiler options."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mine_jax import compilation
from mine_jax.compilation import jit


@pytest.fixture
def options_of_backend(monkeypatch):
    """Set the options of the backend in use, whichever it is."""

    def set_options(options):
        monkeypatch.setattr(compilation, "OPTIONS", {jax.default_backend(): options})
        compilation.supported_options.cache_clear()

    yield set_options
    compilation.supported_options.cache_clear()


@pytest.mark.parametrize("fast_compile", [False, True])
def test_jit_called_again_compiles_only_for_new_static_arguments(compilations, fast_compile):
    @jit(static_argnames=("power",), fast_compile=fast_compile)
    def raised(values, power):
        return values**power

    values = jnp.arange(4.0)
    compilation.supported_options(jax.default_backend())
    with compilations() as programs:
        np.testing.assert_allclose(raised(values, power=3), np.arange(4.0) ** 3)
        raised(values, power=3)
    assert len(programs) == 1
    with compilations() as programs:
        raised(values, power=2)
    assert len(programs) == 1


def test_jit_called_in_a_trace_is_a_part_of_it():
    twice = jit(lambda values: 2 * values)
    assert jax.jit(lambda values: twice(values) + 1)(3.0) == 7
    assert jax.grad(twice)(3.0) == 2
    np.testing.assert_array_equal(jax.vmap(twice)(jnp.arange(3)), [0, 2, 4])


def test_jit_option_unknown_to_jax_is_logged_and_omitted(options_of_backend, caplog):
    options_of_backend({"xla_no_such_option": 1})
    with caplog.at_level("WARNING", logger="absl"):
        assert jit(lambda: 3)() == 3
        assert jit(lambda: 4)() == 4
    assert [record.args[1] for record in caplog.records] == ["xla_no_such_option"]


@pytest.mark.parametrize(("fast_compile", "level"), [(False, 1), (True, 0)])
def test_jit_fast_compile_lowers_the_optimization_level(
    options_of_backend, monkeypatch, fast_compile, level
):
    options_of_backend({compilation.OPTIMIZATION_LEVEL: 1})
    compilation.supported_options(jax.default_backend())
    used, real = [], jax.jit

    def record(function, compiler_options, **kwargs):
        used.append(compiler_options)
        return real(function, **kwargs)

    monkeypatch.setattr(jax, "jit", record)
    jit(lambda: 0, fast_compile=fast_compile)()
    assert used == [{compilation.OPTIMIZATION_LEVEL: level}]


def test_programs_that_share_work_are_done_when_they_return():
    """Else a CPU's devices could wait for one another forever behind other programs."""
    code = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp
from mine_jax.compilation import jit

def work(x):
    return jax.lax.fori_loop(0, 100, lambda i, y: y @ y / jnp.linalg.norm(y), x)

print(*(jit(work, shares_work=True)(jnp.ones((500, 500))).is_ready() for _ in range(3)))
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True"] * 3
