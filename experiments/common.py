"""What the experiments share: devices and compilation, errors, tables, results pages.

A program takes over the flags with `flags.adopt_module_key_flags(common)`.
"""

import contextlib
import datetime
import difflib
import math
import os
import platform
import shlex
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

HERE = Path(__file__).parent
PLATFORMS = ("auto", "cpu", "gpu", "tpu")
PACKAGES = ("mine_jax", "jax", "jaxlib", "flax", "optax", "numpy")
# Seconds without a sign of life after which one of several processes counts as ended.
HEARTBEAT_SECONDS = 15
BACKEND_COMPILE = "/jax/core/compile/backend_compile_duration"
COMPILE_PREFIX = "/jax/core/compile/"
CACHE_HIT = "/jax/compilation_cache/cache_hits"
# Flags that the command of a results page leaves out: they do not affect the numbers.
UNPUBLISHED_FLAGS = (
    *("out_dir", "publish", "resume", "compilation_cache", "progress"),
    *("coordinator", "num_processes", "process_id"),
)
# Flags that name something on this machine, and what a results page has instead.
PLACEHOLDERS = {"data_dir": "FOLDER", "against": "COMMAND"}

FLAGS = flags.FLAGS
flags.DEFINE_integer("num_devices", 1, "Devices that share the samples of a batch; 0 for all.")
flags.DEFINE_string(
    "coordinator",
    None,
    "host:port of process 0, for a run in several processes. Each is started with the same flags, "
    "its own --process_id and the same --out_dir, and uses all its devices.",
)
flags.DEFINE_integer("num_processes", None, "Number of processes, with --coordinator.")
flags.DEFINE_integer("process_id", None, "Number of this process, from 0, with --coordinator.")
flags.DEFINE_enum("platform", "auto", PLATFORMS, "Hardware to compute on.")
flags.DEFINE_string(
    "compilation_cache",
    "auto",
    "Folder for compiled programs, which later runs read. auto: mine_jax/compiled in the user's "
    "cache folder. Empty: none.",
)
flags.DEFINE_bool("publish", False, "Also update experiments/results and experiments/figures.")


# --- The program ----------------------------------------------------------------------------------


def run(experiment: Callable[[], None]) -> None:
    """Parse the flags and run an experiment."""

    def main(argv: list[str]) -> None:
        if len(argv) > 1:  # absl's UsageError prints the whole help
            sys.exit(f"error: unexpected arguments {' '.join(argv[1:])}; flags begin with --")
        if "out_dir" in FLAGS and not FLAGS.out_dir.strip():  # would be the current folder
            sys.exit("error: --out_dir is empty; name a folder")
        logging.set_verbosity(logging.WARNING)  # orbax logs every step of a checkpoint
        signal.signal(signal.SIGTERM, _interrupt)
        warnings.showwarning = _show_warning
        try:
            _run_to_end(experiment)
        except BaseException as error:
            if FLAGS.coordinator:
                _end_at_once(error)
            raise

    app.run(main)


def _run_to_end(experiment: Callable[[], None]) -> None:
    from mine_jax.information_plane.records import RunFolderError

    try:
        experiment()
    except RunFolderError as error:
        can_go_on = isinstance(error.__cause__, OSError)
        sys.exit(f"error: {error}" + (f". {_how_to_go_on()}" if can_go_on else ""))
    except KeyboardInterrupt as interrupt:
        print(f"\nInterrupted. {_how_to_go_on()}", file=sys.stderr, flush=True)
        sys.exit(128 + (interrupt.args[0] if interrupt.args else signal.SIGINT))


def _end_at_once(error: BaseException) -> NoReturn:
    """End one of several processes without waiting for the others, which then end, too.

    At its usual end JAX waits for all processes, and those wait for what this one computes.
    """
    status = error.code if isinstance(error, SystemExit) else 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
    elif not isinstance(error, SystemExit):
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


def _how_to_go_on() -> str:
    if "resume" not in FLAGS:
        return "This program cannot go on where it was; start it again with another --out_dir."
    arguments = [*sys.argv, *(["--resume"] if not FLAGS.resume else [])]
    return f"To go on: {shlex.join(['python', *arguments])}"


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors that the user can mend into one line and exit status 1.

    It belongs around the validation of flags and the opening of data and folders alone: elsewhere
    an exception is a mistake of ours and keeps its traceback.
    """
    from mine_jax.information_plane.records import RunFolderError
    from mine_jax.lenet.datasets import DatasetUnavailable

    try:
        yield
    except (ValueError, OSError, DatasetUnavailable, RunFolderError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def unknown_names(flag: str, names: Iterable[str], known: Sequence[str]) -> list[str]:
    """Return a sentence on the names that a flag has and that are not known; empty if all are.

    Args:
      flag: name of the flag.
      names: its value.
      known: the names to choose from.
    """
    unknown = [name for name in names if name not in known]
    if not unknown:
        return []
    close = [match for name in unknown for match in difflib.get_close_matches(name, known, 1)]
    hint = f" (did you mean {', '.join(dict.fromkeys(close))}?)" if close else ""
    return [f"--{flag} has {', '.join(unknown)}{hint}; choose from {', '.join(known)}"]


def settings_of(
    module: str, ignored: Sequence[str] = ("resume", "out_dir", "progress")
) -> dict[str, Any]:
    """Return the values of the flags of a program and of this module.

    Args:
      module: the program's `__name__`.
      ignored: names of flags that do not affect the numbers.
    """
    own = [flag for name in (module, __name__) for flag in FLAGS.get_flags_for_module(name)]
    return {flag.name: flag.value for flag in own if flag.name not in (*ignored, "publish")}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that determine the numbers."""
    numbers = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            numbers[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # mine_jax on PYTHONPATH
            numbers[name] = "not installed"
    return numbers


# --- Devices --------------------------------------------------------------------------------------


def select_devices(processes: bool = False) -> list[str]:
    """Set up JAX's devices and compilation cache as the flags say.

    Call it before anything is computed, and compute within `device_mesh`.

    Args:
      processes: whether the program can run in several processes.

    Returns:
      The names of the devices.

    Raises:
      ValueError: if there is no such device, or not as many, or if flags contradict one another.
    """
    import jax

    values = (FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    if any(value is not None for value in values):
        if not processes:
            raise ValueError(
                "this program runs in one process; remove --coordinator, --num_processes and "
                "--process_id"
            )
        if any(value is None for value in values):
            raise ValueError(
                "--coordinator, --num_processes and --process_id are needed together, got "
                f"{FLAGS.coordinator}, {FLAGS.num_processes}, {FLAGS.process_id}"
            )
        if FLAGS.num_processes < 1:
            raise ValueError(f"--num_processes must be at least 1, got {FLAGS.num_processes}")
        if not 0 <= FLAGS.process_id < FLAGS.num_processes:
            raise ValueError(
                f"--process_id must be in 0 … {FLAGS.num_processes - 1}, got {FLAGS.process_id}"
            )
        host, _, port = FLAGS.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ValueError(
                f"--coordinator must be host:port, the port below 65536, got {FLAGS.coordinator}"
            )
        jax.distributed.initialize(
            FLAGS.coordinator,
            FLAGS.num_processes,
            FLAGS.process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
        signal.signal(signal.SIGTERM, _interrupt)  # JAX has taken it
    name = FLAGS.platform
    # JAX prefers a GPU where there is one; naming it would ask for CUDA and ROCm both.
    if name in ("cpu", "tpu"):
        jax.config.update("jax_platforms", name)
    if FLAGS.num_devices > 0 and not FLAGS.coordinator:
        ask_for_cpu_devices(FLAGS.num_devices if FLAGS.num_devices > 1 else None)
    if folder := cache_folder(FLAGS.compilation_cache):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        devices = jax.devices() if name == "auto" else jax.devices(name)
    except RuntimeError as error:
        raise ValueError(
            f"--platform={name} is not available here ({str(error).splitlines()[0]}); install "
            "jax for it, or use --platform=auto"
        ) from error
    if not 0 <= FLAGS.num_devices <= len(devices):
        raise ValueError(
            f"--num_devices={FLAGS.num_devices}, but there are {len(devices)}: "
            f"{', '.join(map(str, devices))}"
        )
    shared = FLAGS.num_devices == 1 and devices[0].platform == "cpu"  # networks, not samples
    return [str(device) for device in (devices if shared else devices[: _num_devices()])]


def ask_for_cpu_devices(number: int | None) -> None:
    """Ask JAX for CPU devices; None for one for each core, which then share the networks.

    It has no effect once JAX has started, or where XLA_FLAGS set the number of devices.
    """
    import jax

    if number is None:
        affinity = getattr(os, "sched_getaffinity", None)
        number = (len(affinity(0)) if affinity else os.cpu_count()) or 1
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", number)


def device_mesh() -> AbstractContextManager[None]:
    """Return the context within which the library uses the devices of the flags."""
    from mine_jax import devices

    return devices.use(_num_devices())


def is_first_process() -> bool:
    """Tell whether this process writes and prints."""
    return not FLAGS.process_id


def cache_folder(value: str) -> Path | None:
    """Return the folder of --compilation_cache=`value`; None for none."""
    if value != "auto":
        return Path(value).expanduser() if value else None
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "mine_jax" / "compiled"


def _num_devices() -> int | None:
    # Several processes use all devices, unless another number is asked for, which is an error.
    if FLAGS.coordinator and FLAGS["num_devices"].using_default_value:
        return None
    return FLAGS.num_devices or None


class CompilationClock:
    """Time that compilation took in this process.

    Attributes:
      seconds: of XLA, reading from the compilation cache included; threads count each.
      tracing: of JAX before it, from Python to XLA's input, which no cache saves.
      programs: number of programs compiled or read.
      cache_hits: number of programs read.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.tracing = 0.0
        self.programs = 0
        self.cache_hits = 0

    def start(self) -> "CompilationClock":
        """Count from now on."""
        import jax

        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        return self

    def stop(self) -> None:
        """Stop counting."""
        import jax

        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)

    def _on_duration(self, event: str, duration_secs: float, **_: object) -> None:
        if event == BACKEND_COMPILE:
            self.seconds += duration_secs
            self.programs += 1
        elif event.startswith(COMPILE_PREFIX):
            self.tracing += duration_secs

    def _on_event(self, event: str, **_: object) -> None:
        self.cache_hits += event == CACHE_HIT


# --- Tables and pages -----------------------------------------------------------------------------


def mean(values: Iterable[float]) -> float:
    """Return the mean without NaN; NaN of none."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def number(value: float, form: str) -> str:
    """Format a number with a true minus sign; NaN is a dash."""
    return "–" if math.isnan(value) else f"{value:{form}}".replace("-", "−")


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])


def command() -> str:
    """Return the command of this run, without what only concerns this machine."""
    arguments = []
    for name in sorted(FLAGS):
        flag = FLAGS[name]
        if name in UNPUBLISHED_FLAGS or name != flag.name or not flag.present:
            continue
        hidden = name in PLACEHOLDERS
        arguments.append(f"--{name}={PLACEHOLDERS[name]}" if hidden else flag.serialize())
    return shlex.join(["python", f"experiments/{Path(sys.argv[0]).name}", *arguments])


def write_page(name: str, title: str, body: str, figures: Sequence[Path] = ()) -> Path:
    """Write the results page of an experiment, and copy its figures.

    Args:
      name: of the page, without its ending.
      title: its heading.
      body: Markdown.
      figures: PNG files; they are shown under the heading.

    Returns:
      The page's path.
    """
    packages = ", ".join(f"{package} {version}" for package, version in versions().items())
    lines = [f"# {title}", f"`{command()}`", f"{datetime.date.today().isoformat()}; {packages}."]
    results, copies = HERE / "results", HERE / "figures"
    for folder in (results, copies):
        folder.mkdir(exist_ok=True)
    for figure in figures:
        shutil.copy(figure, copies / figure.name)
        lines.append(f"![{figure.stem.replace('_', ' ')}](../figures/{figure.name})")
    path = results / f"{name}.md"
    path.write_text("\n\n".join([*lines, body]) + "\n")
    return path
