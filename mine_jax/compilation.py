"""`jit`: `jax.jit` with compiler options, which JAX allows only where no other trace is active.

`on_host`: what holds for functions that start many such programs.
"""

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

import jax
from absl import logging
from jax._src import xla_bridge  # nothing public tells whether JAX has been used
from jax.sharding import NamedSharding, PartitionSpec

from mine_jax import devices

F = TypeVar("F", bound=Callable[..., Any])

# A program is some MB and about 120 memory mappings, of which Linux grants a process 65,530.
MAX_PROGRAMS = 256

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

_functions: list[Any] = []  # of `jax.jit`
_traces: list[str] = []  # names of the functions whose programs these hold
_forked_in_use = threading.Event()


def _note_fork() -> None:
    if xla_bridge.backends_are_initialized():
        _forked_in_use.set()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_note_fork)


def check_process() -> None:
    """Raise RuntimeError in a process that was forked after its parent had used JAX.

    JAX's threads do not exist in it: its first program would wait for them forever.
    """
    if _forked_in_use.is_set():
        raise RuntimeError(
            "this process was forked from one that had used JAX, whose threads it lacks; start it "
            'by multiprocessing.get_context("spawn"), or fork before the first use of JAX'
        )


def on_host(function: F) -> F:
    """Decorate a function that starts programs and decides by what they return.

    It computes in float32 whatever `jax_enable_x64` says. Before it begins, programs of this
    library are forgotten if there are more than `MAX_PROGRAMS`, as every shape has its own.

    Raises:
      RuntimeError: when called in a forked process (`check_process`), or while JAX traces.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        check_process()
        if not _can_run() or any(map(_is_traced, (*args, *kwargs.values()))):
            raise RuntimeError(
                f"{function.__name__} was called inside jax.jit, vmap, grad or another "
                "transformation, but it trains networks step by step, on values; call it outside, "
                "with arrays"
            )
        _forget_programs()
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def _can_run() -> bool:
    try:
        devices.mesh()
    except ValueError:  # JAX has no mesh to give while a function is traced
        return False
    return True


def _is_traced(argument: Any) -> bool:
    parts = argument.values() if isinstance(argument, Mapping) else (argument,)
    return any(isinstance(part, jax.core.Tracer) for part in parts)


def _forget_programs() -> None:
    if len(_traces) > MAX_PROGRAMS:
        logging.info("Forgetting %d compiled programs", len(_traces))
        _traces.clear()
        for function in list(_functions):
            function.clear_cache()
        if sys.platform == "linux":
            # glibc keeps the memory that they held: 1.9 GB of 53 calls of other shapes, then 0.6.
            with contextlib.suppress(AttributeError):  # other C libraries
                ctypes.CDLL(None).malloc_trim(0)


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
    def traced(*args: Any, **kwargs: Any) -> Any:
        _traces.append(function.__name__)
        return function(*args, **kwargs)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        check_process()
        if not _can_run():
            return function(*args, **kwargs)
        backend, mesh = jax.default_backend(), devices.mesh()
        options = supported_options(backend)
        if fast_compile and OPTIMIZATION_LEVEL in options:
            options = options | {OPTIMIZATION_LEVEL: 0}
        place = backend, mesh, *options.items()  # only tests change options
        with lock:
            if place not in compiled:
                compiled[place] = jax.jit(
                    traced,
                    static_argnames=static_argnames,
                    compiler_options=options,
                    out_shardings=mesh and NamedSharding(mesh, PartitionSpec()),
                )
                _functions.append(compiled[place])
        # Where a CPU's devices share networks, arrays committed to one of them would clash.
        args, kwargs = devices.commit_to_networks_mesh((args, kwargs), every=shares_work)
        if not shares_work or devices.networks_mesh() is None:
            return compiled[place](*args, **kwargs)
        # Devices wait for one another within such a program. A CPU has a thread for each device,
        # and holds one where 32 programs are under way: with others queued it could wait forever.
        args, kwargs = jax.block_until_ready((args, kwargs))
        return jax.block_until_ready(compiled[place](*args, **kwargs))

    return call
