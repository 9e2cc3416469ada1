"""What experiments share: errors, devices, compilation, tables, results pages."""

import math
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import jax
import pytest
from conftest import EXPERIMENTS, load_experiment, set_flags

from mine_jax.information_plane.records import RunFolderError
from mine_jax.lenet.datasets import DatasetUnavailable

common = load_experiment("common")
accuracy = load_experiment("accuracy")
benchmark = load_experiment("benchmark")
OF_TWO = ["--num_processes=2"]


@pytest.fixture(autouse=True)
def jax_config():
    """Restore JAX's configuration, which `select_devices` changes; JAX has started before."""
    jax.devices()
    names = ["jax_platforms", "jax_compilation_cache_dir"]
    names += ["jax_persistent_cache_min_compile_time_secs"]
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_user_errors_exits_with_the_message_and_keeps_other_errors():
    for error in (ValueError, OSError, DatasetUnavailable, RunFolderError):
        with pytest.raises(SystemExit, match=r"^error: no such folder$"), common.user_errors():
            raise error("no such\n folder")
    with pytest.raises(TypeError, match="a mistake"), common.user_errors():
        raise TypeError("a mistake")


SLEEP = """
import signal, time
from absl import flags
import common
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells make background jobs ignore it
if "resumable" in __import__("sys").argv[0]:
    flags.DEFINE_bool("resume", False, "")
def experiment():
    print("started", flush=True)
    time.sleep(60)
common.run(experiment)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("resumable.py", ["--publish"], "resumable.py --publish --resume"),
        ("resumable.py", ["--resume"], "resumable.py --resume"),
        ("once.py", [], "start it again with another --out_dir."),
    ],
)
def test_run_that_is_interrupted_says_how_to_go_on(tmp_path, number, name, flags, message):
    program = tmp_path / name
    program.write_text(f"import sys\nsys.path.insert(0, {str(EXPERIMENTS)!r})\n{SLEEP}")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, program, *flags], **pipes) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert errors.strip().splitlines()[-1].endswith(message)
    assert "Traceback" not in errors


def test_run_refuses_positional_arguments(monkeypatch):
    calls = []
    monkeypatch.setattr(common.app, "run", lambda main: main(["program", "--n=1", "folder"][::2]))
    with pytest.raises(SystemExit, match=r"^error: unexpected arguments folder"):
        common.run(lambda: calls.append("experiment"))
    monkeypatch.setattr(common.app, "run", lambda main: main(["program"]))
    common.run(lambda: calls.append("experiment"))
    assert calls == ["experiment"]


def test_settings_of_has_the_flags_of_program_and_common():
    with set_flags(accuracy, "--n=300", "--platform=cpu", "--publish"):
        settings = accuracy.common.settings_of("accuracy")
    assert (settings["n"], settings["platform"]) == (300, "cpu")
    assert not {"publish", "out_dir", "resume", "verbosity"} & set(settings)


@pytest.mark.parametrize(
    ("arguments", "processes", "message"),
    [
        (["--num_devices=99"], False, "--num_devices=99, but there are "),
        (["--num_devices=-1"], False, "--num_devices=-1, but there are "),
        (["--process_id=0"], False, "this program runs in one process; remove --coordinator"),
        (["--process_id=0"], True, "are needed together, got None, None, 0"),
        (["--coordinator=here:1", *OF_TWO, "--process_id=2"], True, "must be in 0 … 1, got 2"),
        (["--coordinator=here", *OF_TWO, "--process_id=0"], True, "must be host:port, .*got here"),
        (["--coordinator=:1", *OF_TWO, "--process_id=0"], True, "must be host:port, .*got :1"),
        (["--coordinator=a:65536", *OF_TWO, "--process_id=0"], True, "below 65536, got a:65536"),
        (["--coordinator=a:1", "--num_processes=0", "--process_id=0"], True, "at least 1, got 0"),
    ],
)
def test_select_devices_wrong_flags_are_named(arguments, processes, message):
    with set_flags(common, *arguments), pytest.raises(ValueError, match=message):
        common.select_devices(processes)


def test_select_devices_missing_platform_names_the_flag(monkeypatch):
    def no_devices(*_):
        raise RuntimeError("no such backend\nmore")

    monkeypatch.setattr(jax, "devices", no_devices)
    message = r"--platform=tpu is not available here \(no such backend\); install"
    with set_flags(common, "--platform=tpu"), pytest.raises(ValueError, match=message):
        common.select_devices()


def test_select_devices_returns_as_many_as_asked_and_device_mesh_uses_them():
    with set_flags(common, "--platform=cpu", "--compilation_cache="):
        assert common.select_devices() == [str(jax.devices("cpu")[0])]
        with common.device_mesh():
            assert jax.jit(lambda x: 2 * x)(1.5) == 3
    with set_flags(common, "--num_devices=0"):
        assert len(common.select_devices()) == len(jax.devices())


@pytest.mark.parametrize(
    ("value", "folder"),
    [("auto", "cache/mine_jax/compiled"), ("~/code", "home/code"), ("", None)],
)
def test_cache_folder_of_the_flag(value, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert common.cache_folder(value) == (folder and tmp_path / folder)


def test_compilation_clock_counts_between_start_and_stop():
    def compile_new(value):
        # A function that no earlier run has compiled, either.
        jax.jit(lambda x: x + value)(0.0).block_until_ready()

    clock = common.CompilationClock().start()
    compile_new(uuid.uuid4().int % 2**20)
    clock.stop()
    programs, seconds = clock.programs, clock.seconds
    assert programs > 0
    assert min(seconds, clock.tracing) > 0
    compile_new(-1.0)
    assert (clock.programs, clock.seconds) == (programs, seconds)


def test_mean_leaves_out_nan_and_markdown_table_shows_a_dash():
    assert common.mean([1.0, math.nan, 2.0]) == 1.5
    assert math.isnan(common.mean([]))
    lines = [["a", common.number(-0.5, "+.2f")], ["b", common.number(math.nan, ".1f")]]
    assert common.markdown_table(["name", "value"], lines).splitlines() == [
        "| name | value |",
        "| --- | ---: |",
        "| a | −0.50 |",
        "| b | – |",
    ]


def test_write_page_has_the_command_without_paths_of_this_machine(tmp_path, monkeypatch):
    common = benchmark.common
    monkeypatch.setattr(common, "HERE", tmp_path / "experiments")
    monkeypatch.setattr(common, "PACKAGES", ("jax", "no_such_package"))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "benchmark.py")])
    (tmp_path / "experiments").mkdir()
    figure = tmp_path / "some_curve.png"
    figure.write_bytes(b"png")
    arguments = ["--data_dir", f"{tmp_path}/data", f"--out_dir={tmp_path}/run", "--publish"]
    arguments += ["--parts", "product,start", f"--against=python {tmp_path}/other.py"]
    with set_flags(benchmark, *arguments, "--coordinator=host:1", "--steps=3"):
        path = common.write_page("speed", "Speed", "| a |", [figure])
    text = path.read_text()
    command = "--against=COMMAND --data_dir=FOLDER --parts=product,start --steps=3"
    assert text.startswith(f"# Speed\n\n`python experiments/benchmark.py {command}`\n\n")
    assert f"jax {jax.__version__}, no_such_package not installed." in text
    assert text.endswith("![some curve](../figures/some_curve.png)\n\n| a |\n")
    assert str(tmp_path) not in text
    assert Path(path.parent, "../figures/some_curve.png").read_bytes() == b"png"
