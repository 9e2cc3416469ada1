"""`Recorder`: snapshots of a network in training, kept until they are measured; `plane`."""

import dataclasses
import hashlib
import math
import os
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from mine_jax.estimate.table_files import DAMAGED
from mine_jax.estimate.variables import Discrete
from mine_jax.information_plane import durable_files
from mine_jax.information_plane.activations import (
    Channels,
    check_epoch,
    read_activations,
    reason_not_measured,
    warn_of_held_snapshots,
)
from mine_jax.information_plane.config import PlaneConfig, values_of
from mine_jax.information_plane.measurement import Row
from mine_jax.information_plane.planes import Plane
from mine_jax.information_plane.records import (
    CONFIG,
    RECORDS,
    RunFolder,
    RunFolderError,
    RunFolderWarning,
)
from mine_jax.information_plane.snapshots import (
    LayerValue,
    Measured,
    ProbedSamples,
    RoundState,
    measure_snapshot,
    read_samples,
)
from mine_jax.information_plane.targets import read_target

When = Literal["end", "now"]

SNAPSHOTS = "snapshots"
SNAPSHOTS_WANTED = "snapshots must be a mapping of epochs to activations, or pairs of these"


class Recorder:
    """Records the layers of a network while it trains, and measures them at the end or at once.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, 500)
    >>> recorder = Recorder(labels)
    >>> for epoch in range(2):
    ...     hidden = np.tanh(rng.normal(size=(500, 3)) + epoch * labels[:, None])
    ...     _ = recorder.add(epoch, {"hidden": hidden})
    >>> len(recorder.plane().records)
    4

    Args:
      labels: Y of the probed samples, see `measure_layers`. Some thousands are enough, and all
        snapshots are of the same samples in the same order.
      inputs: X of them, (n, …), see `measure_layers`.
      folder: where snapshots (with `when="end"`) and records are kept: what `add` was given is on
        disk when it returns, and a `Recorder` of the same folder, labels and settings goes on from
        there. None to keep them in memory, snapshots until they are measured.
      when: "end" to measure when `plane` is called; "now" to measure in `add`.
      noise: see `measure_layers`.
      config: likewise.
      key: likewise.
      channels: likewise.
      discrete: likewise.
      name: name of the data in figures.
      progress: show progress bars.

    Raises:
      TypeError: as `measure_layers`.
      ValueError: as `measure_layers`, or if `when` is neither.
      RunFolderError: if the folder holds other snapshots, or cannot be written.
    """

    def __init__(
        self,
        labels: Any,
        *,
        inputs: Any = None,
        folder: str | os.PathLike | None = None,
        when: When = "end",
        noise: Any = None,
        config: PlaneConfig | None = None,
        key: Any = None,
        channels: Channels | None = None,
        discrete: Discrete = "auto",
        name: str = "",
        progress: bool = False,
    ) -> None:
        if when not in get_args(When):
            raise ValueError(f"when must be one of {get_args(When)}, got {when!r}")
        target = read_target(labels, discrete)
        options: dict[str, Any] = {"noise": noise, "config": config, "key": key}
        self._samples = read_samples(("layer",), target, inputs, **options, channels=channels)
        self._discrete, self._when = discrete, when
        self._name, self._progress = name, progress
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._memory: dict[int, dict[str, np.ndarray]] = {}  # what has not been measured
        self._warned_of_memory = False
        self._records: dict[int, list[Row]] = {}
        self._state: tuple[int, RoundState] | None = None
        self._folder = None if folder is None else RunFolder(folder)
        if self._folder is not None:
            self._open(self._folder)

    def add(self, epoch: int, activations: Any, labels: Any = None) -> dict[str, float]:
        """Record the layers at an epoch; one that is there already is replaced.

        Warnings tell of layers that are not going to be measured, as their values are not finite or
        have squares that float32 cannot hold, and once of much memory.

        Args:
          epoch: number of the epoch, from 0.
          activations: names to arrays (n, …) in the order of depth, or an iterable of such mappings
            of successive batches, see `measure_layers`, also on `jax.jit`.
          labels: Y of these rows, to check that they are the same in the same order.

        Returns:
          With `when="now"` flat scalars for a logger, in nats: "I(X;conv1)", "I(X;conv1)/stderr",
          and where they are known "I(X;conv1)/low" and "I(X;conv1)/high" of the bracket, or
          "I(X;conv1)/exact" of a whole population; NaN for a value that is not finite. With
          `when="end"` an empty dict.

        Raises:
          TypeError: if the epoch is no integer.
          ValueError: if it is negative, arrays do not fit the labels or cannot be read, or layers
            differ from those of the epochs before.
          RunFolderError: if the folder cannot be written.
        """
        epoch = check_epoch(epoch)
        target = self._samples.target
        if labels is not None and read_target(labels, self._discrete).sha256 != target.sha256:
            raise ValueError(
                f"labels at epoch {epoch} differ from those of the Recorder: give all epochs the "
                "same samples in the same order"
            )
        layers = read_activations(activations, len(target.values), self._samples.channels)
        self._check_shapes(layers)
        for layer, values in layers.items():
            if reason := reason_not_measured(values, layer, epoch):
                warnings.warn(reason, stacklevel=2)
        if self._when == "now":
            return _scalars(self._measure(epoch, layers))
        if self._records.pop(epoch, None) is not None:
            self._write_records()  # first: after a kill none may be of the layers before
        if self._folder is None:
            self._memory[epoch] = {
                name: np.array(values, np.float32) for name, values in layers.items()
            }
            if not self._warned_of_memory:
                self._warned_of_memory = warn_of_held_snapshots(self._memory.values())
        else:
            with self._folder.writing():
                _write_snapshot(self._path(epoch), layers)
        return {}

    def plane(self) -> Plane:
        """Measure what has not been measured yet, and return the information plane.

        Raises:
          ValueError: if nothing was added, or as `measure_layers`.

        Warns:
          RunFolderWarning: if a snapshot in the folder is damaged; its epoch is left out.
        """
        for epoch in sorted(set(self._snapshots()) - set(self._records)):
            layers = self._load(epoch)
            if layers is not None:
                self._measure(epoch, layers)
            self._memory.pop(epoch, None)
        if not self._records:
            raise ValueError("there is nothing to measure: call add(epoch, activations) first")
        rows = [row for epoch in sorted(self._records) for row in self._records[epoch]]
        return Plane(tuple(rows), self._description())

    def _measure(self, epoch: int, layers: dict[str, np.ndarray]) -> Measured:
        state = None
        if self._state is not None:
            before, state = self._state
            if before >= epoch:
                state = state._replace(values={})  # changes are those since an earlier epoch
        measured = measure_snapshot(self._samples, layers, epoch, state, self._progress)
        self._state = epoch, measured.state
        replaced = epoch in self._records
        if self._folder is not None and not replaced:
            self._folder.append(RECORDS, measured.records)
        self._records[epoch] = list(measured.records)
        if replaced:
            self._write_records()
        return measured

    def _check_shapes(self, layers: Mapping[str, np.ndarray]) -> None:
        """Check the layers against those of the first snapshot, or remember them."""
        shapes = {name: values.shape for name, values in layers.items()}
        if self._shapes and list(shapes) != list(self._shapes):
            raise ValueError(
                f"layers are {list(shapes)}, but were {list(self._shapes)} before: all epochs need "
                "the same names in the same order"
            )
        for name, shape in self._shapes.items():
            if shapes[name] != shape:
                raise ValueError(
                    f"activations of {name} have shape {shapes[name]}, but had {shape} before"
                )
        if not self._shapes:
            before = self._samples
            self._set_shapes(shapes)
            try:
                if self._folder is not None:
                    self._folder.write(CONFIG, self._description())
            except RunFolderError:
                self._shapes, self._samples = {}, before
                raise

    def _set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = dict(shapes)
        config = dataclasses.replace(self._samples.config, layers=tuple(shapes))
        self._samples = self._samples._replace(config=config)

    def _description(self) -> dict[str, Any]:
        samples, folder = self._samples, self._folder
        stored = {} if folder is None else folder.description()
        return stored | {
            "settings": _settings(samples),
            "when": self._when,
            "layers": {name: list(shape) for name, shape in self._shapes.items()},
            **describe(samples, self._name),
        }

    # --- The folder -------------------------------------------------------------------------------

    def _open(self, folder: RunFolder) -> None:
        """Claim the folder, or take over what it holds."""
        # Snapshots are arrays: other versions of packages can measure them.
        if folder.open(self._description(), resume=True, may_differ=("versions",)):
            shapes = folder.description().get("layers", {})
            if shapes:
                self._set_shapes({name: tuple(shape) for name, shape in shapes.items()})
        with folder.writing():
            (folder.path / SNAPSHOTS).mkdir(exist_ok=True)
        rows: dict[int, list[Row]] = {}
        for row in folder.read_whole(RECORDS):
            rows.setdefault(row["epoch"], []).append(row)
        expected = 2 * len(self._samples.config.planes) * len(self._shapes)
        # An epoch whose rows are not all there was being written: it is measured again.
        self._records = {epoch: of for epoch, of in rows.items() if len(of) == expected}
        for epoch in sorted(set(rows) - set(self._records) - set(self._snapshots())):
            text = f"epoch {epoch} in {folder.path} was not written to its end: add it again"
            warnings.warn(text, RunFolderWarning, stacklevel=3)
        self._write_records()

    def _write_records(self) -> None:
        if self._folder is not None:
            rows = [row for of_epoch in self._records.values() for row in of_epoch]
            self._folder.replace_rows(RECORDS, rows)

    def _path(self, epoch: int) -> Path:
        assert self._folder is not None
        return self._folder.path / SNAPSHOTS / f"{epoch:08d}.npz"

    def _snapshots(self) -> list[int]:
        if self._folder is None:
            return list(self._memory)
        return [int(path.stem) for path in (self._folder.path / SNAPSHOTS).glob("*.npz")]

    def _load(self, epoch: int) -> dict[str, np.ndarray] | None:
        if self._folder is None:
            return self._memory[epoch]
        path = self._path(epoch)
        try:
            with zipfile.ZipFile(path) as members:
                if name := members.testzip():  # np.load reads no further than a header says
                    raise zipfile.BadZipFile(f"the checksum of {name} differs")
            with open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
                layers = {name: file[str(i)] for i, name in enumerate(self._shapes)}
        except DAMAGED as error:
            warnings.warn(
                f"{path} is damaged ({error}): epoch {epoch} is left out; add it again",
                RunFolderWarning,
                stacklevel=3,
            )
            return None
        self._check_shapes(layers)
        return layers


def plane(
    snapshots: Mapping[int, Any] | Iterable[tuple[int, Any]],
    labels: Any,
    inputs: Any = None,
    *,
    noise: Any = None,
    config: PlaneConfig | None = None,
    key: Any = None,
    channels: Channels | None = None,
    discrete: Discrete = "auto",
    name: str = "",
    progress: bool = False,
) -> Plane:
    """Measure the information plane of a network from snapshots of its layers.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, 500)
    >>> layers = lambda epoch: {"out": rng.normal(size=(500, 3)) + epoch * labels[:, None]}
    >>> found = plane(((epoch, layers(epoch)) for epoch in (0, 2)), labels)
    >>> [row["epoch"] for row in found.records if row["variable"] == "y"]
    [0, 2]

    Args:
      snapshots: epochs to activations, as a mapping or as pairs, see `measure_layers`. Pairs are
        taken one at a time, so that a generator needs the memory of one epoch.
      labels: Y, see `measure_layers`.
      inputs: X, likewise.
      noise: likewise.
      config: likewise.
      key: likewise.
      channels: likewise.
      discrete: likewise.
      name: name of the data in figures.
      progress: show progress bars.

    Raises:
      TypeError: as `measure_layers`, or if snapshots are no pairs.
      ValueError: as `measure_layers`, or if there are no snapshots.
    """
    options: dict[str, Any] = {"noise": noise, "config": config, "key": key, "name": name}
    options |= {"channels": channels, "discrete": discrete, "progress": progress}
    recorder = Recorder(labels, inputs=inputs, when="now", **options)
    pairs = snapshots.items() if isinstance(snapshots, Mapping) else snapshots
    if not isinstance(pairs, Iterable):
        raise TypeError(f"{SNAPSHOTS_WANTED}, got {type(pairs).__name__}")
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"{SNAPSHOTS_WANTED}, got {type(pair).__name__} as one of them")
        recorder.add(*pair)
    return recorder.plane()


def describe(samples: ProbedSamples, name: str) -> dict[str, Any]:
    """Describe what records are of, as `config.json` of a run does.

    Args:
      samples: what all snapshots share.
      name: name of the data.
    """
    config, report_size = samples.config, samples.rows.test.shape[1]
    observed = "observed" in config.planes
    return {
        "dataset": name,
        "notice": "",
        "probe_size": len(samples.target.values),
        "report_size": report_size,
        "class_entropy_nats": samples.target.entropy_nats,
        "noise": config.noise,
        "noise_level": config.noise_level(report_size) if observed else None,
        "population": config.population,
        "versions": {each: metadata.version(each) for each in ("jax", "jaxlib", "flax", "optax")},
    }


def _settings(samples: ProbedSamples) -> dict[str, Any]:
    """Return what determines the values, so that a folder holds those of one setting."""
    inputs = samples.inputs
    digest = None if inputs is None else hashlib.sha256(inputs.tobytes()).hexdigest()
    config = values_of(samples.config)
    for field in ("layers", "epochs", "probe_every", "probe_size", "classifier", "num_seeds"):
        del config[field]  # of the training of `run`, and of what is known with the first snapshot
    return {
        "labels_sha256": samples.target.sha256,
        "inputs_sha256": digest,
        "channels": samples.channels,
        "keys": {
            name: np.asarray(jax.random.key_data(key)).tolist()
            for name, key in samples.keys.items()
        },
        "config": config,
    }


def _write_snapshot(path: Path, layers: Mapping[str, np.ndarray]) -> None:
    """Write the layers of an epoch; they are on disk when this returns, or nothing is."""
    arrays = {str(i): values.astype(np.float32) for i, values in enumerate(layers.values())}
    with durable_files.replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _scalars(measured: Measured) -> dict[str, float]:
    scalars: dict[str, float] = {}
    for symbol, values in (("X", measured.x), ("Y", measured.y)):
        for layer, value in values.items():
            scalars |= _scalars_of(f"I({symbol};{layer})", value)
    return scalars


def _scalars_of(name: str, value: LayerValue) -> dict[str, float]:
    known = {
        name: math.nan if value.nats is None else value.nats,
        f"{name}/stderr": math.nan if value.stderr is None else value.stderr,
        f"{name}/low": value.low_nats,
        f"{name}/high": value.high_nats,
        f"{name}/exact": value.reference_nats,
    }
    return {label: number for label, number in known.items() if number is not None}
