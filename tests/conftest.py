"""What holds for all tests: no silent broadcasting, and examples that are the same every time."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import hypothesis
import jax
import pytest
from absl import app, flags  # noqa: F401 (app defines flags)

from mine_jax import compilation

if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    # Each worker has cores of its own: XLA's threads of several workers hold one another up.
    cores = sorted(os.sched_getaffinity(0))
    own = cores[int(worker[2:]) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
    os.sched_setaffinity(0, own or cores)

LONGEST_FILES = (
    *("test_devices_end_to_end.py", "test_examples.py", "test_info_plane.py"),
    *("test_noise_sweep.py", "test_twelve_inputs.py"),
)
EXPERIMENTS = Path(__file__).parent.parent / "experiments"

# Experiments that tests run in processes of their own keep compiled code here, not at the user's.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="mine_jax-tests-")

jax.config.update("jax_numpy_rank_promotion", "raise")
# Small networks run for less time than they compile: LLVM's lowest level, and no fusion emitters,
# are slow programs that compile in a third of the time.
USER_OPTIONS = dict(compilation.OPTIONS["cpu"])
compilation.OPTIONS["cpu"] |= {
    "xla_cpu_use_fusion_emitters": False,
    compilation.OPTIMIZATION_LEVEL: 0,
}
compilation.MAX_PROGRAMS = 10**6  # tests that count compilations need what earlier ones left
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=25, database=None
)
# For single files, such as tests/estimate/test_fuzz.py: pytest --hypothesis-profile=long
hypothesis.settings.register_profile(
    "long", hypothesis.settings.get_profile("repeatable"), max_examples=10_000
)
hypothesis.settings.load_profile("repeatable")


@pytest.hookimpl(trylast=True)  # after pytest-randomly
def pytest_collection_modifyitems(items):
    """The longest files come first, so that no worker has one left at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FILES)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """The programs of many modules are more memory mappings than Linux grants a process."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def compile_fast():
    """Small networks run fast enough without XLA's optimizations."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def compile_as_users_do():
    """Compile with the options that users get: large networks run for longer than they compile."""
    before = compilation.OPTIONS["cpu"]
    compilation.OPTIONS["cpu"] = USER_OPTIONS
    compilation.supported_options.cache_clear()
    yield
    compilation.OPTIONS["cpu"] = before
    compilation.supported_options.cache_clear()


_compiled = []


def _listen(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled.append(duration)


jax.monitoring.register_event_duration_secs_listener(_listen)


@pytest.fixture
def compilations():
    """A context whose list holds the seconds of each compilation in it, once it is left."""

    @contextlib.contextmanager
    def context():
        before, seen = len(_compiled), []
        yield seen
        seen += _compiled[before:]

    return context


def load_experiment(name):
    """Load the module of an experiment; `set_flags` sets its flags, which are `module.FLAGS`.

    They are not absl's global ones: those of two experiments have the same names.
    """
    before = set(flags.FLAGS)
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXPERIMENTS))
        separate = flags.FlagValues()
        for defined_in, defined in list(flags.FLAGS.flags_by_module_dict().items()):
            for flag in [flag for flag in defined if flag.name not in before]:
                delattr(flags.FLAGS, flag.name)
                separate[flag.name] = flag
                separate.register_flag_by_module(defined_in, flag)
        del sys.modules[name]
        common = sys.modules.pop("common", module)
    module.FLAGS = common.FLAGS = separate
    separate([name])
    return module


@contextlib.contextmanager
def set_flags(module, *arguments, **values):
    """Parse arguments of an experiment and set flags; the others have their defaults."""
    module.FLAGS.unparse_flags()
    try:
        module.FLAGS([module.__name__, *arguments])
        for name, value in values.items():
            setattr(module.FLAGS, name, value)
        yield module.FLAGS
    finally:
        module.FLAGS.unparse_flags()
        module.FLAGS([module.__name__])


def run_experiment(name, folder, *arguments):
    """The experiment in a process of its own: the flags of two do not fit into one."""
    return subprocess.run(
        [
            *(sys.executable, EXPERIMENTS / f"{name}.py"),
            *(f"--out_dir={folder}", "--platform=cpu", *arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
