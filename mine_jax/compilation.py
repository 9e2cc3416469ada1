"""`jit` for functions that are called from Python."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from mine_jax import devices

_LEVEL = "xla_backend_optimization_level"
# On a CPU; what the installed JAX does not know is left out.
_OPTIONS = {
    "cpu": {
        # LLVM's first level: the code is as fast, since the matrix products are a library's, and
        # takes a half to two thirds of the time to compile.
        _LEVEL: 1,
        # Small matrix products by Eigen: a step of one statistics network takes 1.6 ms with it and
        # 3.0 with the library that XLA would choose, and large ones take as long with either.
        "xla_cpu_experimental_ynn_fusion_type": "",
    }
}


@functools.cache
def known_options(backend: str) -> dict[str, Any]:
    """Those of a backend's options that the installed JAX knows."""
    known = {}
    for name, value in _OPTIONS.get(backend, {}).items():
        try:
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
        except jax.errors.JaxRuntimeError:
            continue
        known[name] = value
    return known


def options(backend: str, seldom: bool = False) -> dict[str, Any]:
    """The compiler's options that suit a backend, and a function that is `seldom` called."""
    known = known_options(backend)
    return known | {_LEVEL: 0} if seldom and _LEVEL in known else known


class Compiled:
    """A function under `jax.jit`, with options that suit the backend and the mesh.

    Called while something else is traced it is a part of that, as options hold for whole programs.
    """

    def __init__(self, function: Callable, static_argnames: Sequence[str], seldom: bool) -> None:
        functools.update_wrapper(self, function)
        self._for_backend = functools.cache(
            lambda backend, mesh: jax.jit(
                function,
                static_argnames=static_argnames,
                compiler_options=options(backend, seldom),
                # Whatever was spread inside: results can be read by every process.
                out_shardings=mesh and NamedSharding(mesh, PartitionSpec()),
            )
        )

    @property
    def jitted(self) -> Any:
        """What `jax.jit` gives, for the backend and the mesh in use."""
        return self._for_backend(jax.default_backend(), devices.mesh())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the compiled function."""
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs))):
            return self.__wrapped__(*args, **kwargs)
        return self.jitted(*args, **kwargs)

    def cache_size(self) -> int:
        """How many versions were compiled or read so far."""
        return self.jitted._cache_size()


def jit(
    *, static_argnames: Sequence[str] = (), seldom: bool = False
) -> Callable[[Callable], Compiled]:
    """Decorate a function with `Compiled`.

    Args:
      static_argnames: those of `jax.jit`.
      seldom: it is called so few times that its compilation takes longer: optimise less.
    """
    return lambda function: Compiled(function, tuple(static_argnames), seldom)
