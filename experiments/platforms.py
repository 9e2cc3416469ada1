"""Where an experiment computes, and where it keeps compiled code: flags, and what they do.

A program takes the flags over with `flags.adopt_module_key_flags(platforms)`.
"""

import os
from contextlib import AbstractContextManager
from pathlib import Path

from absl import flags

NAMES = ("auto", "cpu", "gpu", "tpu")

FLAGS = flags.FLAGS
flags.DEFINE_integer(
    "num_devices", 1, "Devices that the samples of a batch are spread over; 0 for all there are."
)
flags.DEFINE_string(
    "coordinator",
    None,
    "host:port of process 0, for one run in several processes, on one host or on several; each is "
    "started with the same flags but --process_id, uses all devices, and sees the same --out_dir.",
)
flags.DEFINE_integer("num_processes", None, "How many processes, with --coordinator.")
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, with --coordinator.")
flags.DEFINE_enum("platform", "auto", NAMES, "Where to compute.")
flags.DEFINE_string(
    "compilation_cache",
    "auto",
    "Folder for compiled code, which a later run reads instead of compiling again. auto: "
    "mine_jax/compiled in the user's cache folder. Empty: none.",
)


class Compilation:
    """What compilation took so far in this process.

    Attributes:
      seconds: of XLA, reading kept code included; threads that compile at once count each.
      tracing: of JAX before it, from Python to XLA's input, which nothing keeps; likewise.
      programs: how many programs were compiled or read.
      read: how many of them were read.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.tracing = 0.0
        self.programs = 0
        self.read = 0

    def listen(self) -> "Compilation":
        """Count from now on."""
        import jax

        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        return self

    def _on_duration(self, event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.seconds += seconds
            self.programs += 1
        elif event.startswith("/jax/core/compile/"):
            self.tracing += seconds

    def _on_event(self, event: str, **_: object) -> None:
        self.read += event == "/jax/compilation_cache/cache_hits"


def cache_folder(value: str) -> Path | None:
    """The folder that --compilation_cache=`value` means; None for none."""
    if value != "auto":
        return Path(value).expanduser() if value else None
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "mine_jax" / "compiled"


def select(processes: bool = False) -> list[str]:
    """Make JAX compute and keep compiled code as the flags say.

    Call it before anything is computed, and compute within `spread`.

    Args:
      processes: whether the program can run in several.

    Returns:
      The names of the devices that are used.

    Raises:
      ValueError: if there is no such device, no JAX for it, or not as many, or if the flags for
        several processes are not all there.
    """
    import jax

    several = (FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    if any(value is not None for value in several):
        if not processes:
            raise ValueError(
                "this program runs in one process; leave out --coordinator, --num_processes and "
                "--process_id"
            )
        if any(value is None for value in several):
            raise ValueError(
                "--coordinator, --num_processes and --process_id belong together, got "
                f"{FLAGS.coordinator}, {FLAGS.num_processes}, {FLAGS.process_id}"
            )
        if not 0 <= FLAGS.process_id < FLAGS.num_processes:
            raise ValueError(
                f"--process_id must be in 0 … {FLAGS.num_processes - 1}, got {FLAGS.process_id}"
            )
        if not FLAGS.coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"--coordinator must be host:port, got {FLAGS.coordinator}")
        jax.distributed.initialize(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    name = FLAGS.platform
    # JAX prefers a GPU where there is one; naming it would ask for CUDA and ROCm both.
    if name in ("cpu", "tpu"):
        jax.config.update("jax_platforms", name)
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
    return [str(device) for device in devices[: _number()]]


def spread() -> AbstractContextManager[None]:
    """Within it, what the library computes is spread over the devices that the flags name."""
    from mine_jax import devices

    return devices.use(_number())


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return not FLAGS.process_id


def wait_for_others() -> None:
    """Wait until all processes are here."""
    if FLAGS.coordinator:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("wait_for_others")


def _number() -> int | None:
    # Several processes use what they have, unless another number is asked for, which is an error.
    if FLAGS.coordinator and FLAGS["num_devices"].using_default_value:
        return None
    return FLAGS.num_devices or None
