"""`jit`: `jax.jit` with compiler options, which JAX allows only where no other trace is active."""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import jax
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec

from mine_jax import devices

F = TypeVar("F", bound=Callable[..., Any])

OPTIMIZATION_LEVEL = "xla_backend_optimization_level"
OPTIONS: dict[str, dict[str, Any]] = {
    "cpu": {
        # LLVM's first level: as fast, since a library computes the matrix products, and it compiles
        # in a half to two thirds of the time.
        OPTIMIZATION_LEVEL: 1,
        # Small matrix products by Eigen: a step of one statistics network takes 1.6 ms instead of
        # 3.0 with XLA's default library; large products take the same time.
        "xla_cpu_experimental_ynn_fusion_type": "",
    }
}


@functools.cache
def supported_options(backend: str) -> dict[str, Any]:
    """Return the options for the backend in use that the installed JAX accepts; log the others."""
    supported = {}
    for name, value in OPTIONS.get(backend, {}).items():
        try:
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            logging.warning("JAX %s rejects %s=%r: %s", jax.__version__, name, value, error)
        else:
            supported[name] = value
    return supported


@overload
def jit(
    function: F,
    *,
    static_argnames: Sequence[str] = (),
    fast_compile: bool = False,
    shares_work: bool = False,
) -> F: ...
@overload
def jit(
    *,
    static_argnames: Sequence[str] = (),
    fast_compile: bool = False,
    shares_work: bool = False,
) -> Callable[[F], F]: ...
def jit(
    function: Callable[..., Any] | None = None,
    *,
    static_argnames: Sequence[str] = (),
    fast_compile: bool = False,
    shares_work: bool = False,
) -> Any:
    """Compile a function once for each backend and mesh; usable as a decorator.

    Under a mesh every process can read the results, however they were computed. While another
    function is traced, the call is a part of that trace.

    Args:
      function: the function; None to return a decorator.
      static_argnames: as for `jax.jit`.
      fast_compile: optimize less, for programs that run for less time than they compile.
      shares_work: put all arrays on `devices.networks_mesh`, whose devices share the work; a call
        returns when its results are there.
    """
    if function is None:
        return functools.partial(
            jit,
            static_argnames=static_argnames,
            fast_compile=fast_compile,
            shares_work=shares_work,
        )
    compiled: dict[Any, Callable[..., Any]] = {}
    lock = threading.Lock()

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        backend = jax.default_backend()
        try:
            mesh = devices.mesh()
        except ValueError:  # JAX has no mesh to give while another function is traced
            return function(*args, **kwargs)
        with lock:
            if (backend, mesh) not in compiled:
                options = supported_options(backend)
                if fast_compile and OPTIMIZATION_LEVEL in options:
                    options = options | {OPTIMIZATION_LEVEL: 0}
                compiled[backend, mesh] = jax.jit(
                    function,
                    static_argnames=static_argnames,
                    compiler_options=options,
                    out_shardings=mesh and NamedSharding(mesh, PartitionSpec()),
                )
        # Where a CPU's devices share networks, arrays committed to one of them would clash.
        args, kwargs = devices.commit_to_networks_mesh((args, kwargs), every=shares_work)
        if not shares_work or devices.networks_mesh() is None:
            return compiled[backend, mesh](*args, **kwargs)
        # Devices wait for one another within such a program. A CPU has a thread for each device,
        # and holds one where 32 programs are under way: with others queued it could wait forever.
        args, kwargs = jax.block_until_ready((args, kwargs))
        return jax.block_until_ready(compiled[backend, mesh](*args, **kwargs))

    return call
