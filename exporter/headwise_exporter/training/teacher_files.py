"""Teachers from files: a classifier as ONNX, run by ONNX Runtime, or a model of ours.

What an ONNX graph takes is read from it where it says so, and from what is stated otherwise:
- one input of rank 4, `nchw` or `nhwc`, with the data set's channels, square; its batch free or of one size;
- uint8: the pixels as they are. The classify graph of a bundle is such a graph, and its manifest names the labels;
- float32 or float16: (x - mean) / std of values in 0 .. 1; stated, or in the file's metadata as JSON under `headwise`
  ({"mean": [...], "std": [...], "labels": [...]}, all optional), as `experiments/teachers.py` writes them;
- the first output, (N, K), is the logits.

A model of ours is one that `exporter train` wrote (`dense.safetensors`) or `checkpoint:NAME`; its images are normalised
by the data set's own mean and deviation, so it is to have learnt the same data set.

Limits: ONNX Runtime computes on the CPU. Where neither manifest nor metadata name the labels, only their number is
compared.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime
import torch
from headwise.bundle import MANIFEST, BundleError, file_sha256, read_manifest
from headwise.graphs import CLASSIFY_GRAPH
from torch import Tensor

from headwise_exporter.data.augmentation import normalise
from headwise_exporter.data.images import EVALUATION_BATCH
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import load_model
from headwise_exporter.model.initial_weights import weights_path
from headwise_exporter.training.taught_views import ImageTeacher, TeacherError

Layout = Literal["nchw", "nhwc"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
METADATA = "headwise"  # key of the JSON in the graph's metadata
TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class TeacherFile:
    """A teacher as the command line names it, and what is stated of its input; None where its file says it."""

    path: str  # of an ONNX graph or of a model of ours; or checkpoint:NAME
    size: int | None = None  # pixels a side
    layout: Layout | None = None
    mean: tuple[float, ...] | None = None  # of values in 0 .. 1, for each channel
    std: tuple[float, ...] | None = None

    @property
    def is_graph(self) -> bool:
        """Whether it is an ONNX graph."""
        return Path(self.path).suffix.lower() == ".onnx"


@dataclass(frozen=True)
class TeacherInput:
    """What an ONNX graph takes."""

    name: str
    size: int  # pixels a side
    layout: Layout
    dtype: str  # as ONNX Runtime calls it
    batch: int | None  # images at a time, where it is not free
    mean: tuple[float, ...]  # empty for uint8
    std: tuple[float, ...]


def _hash(path: Path) -> str:
    """sha256 over a graph and the files of weights that it refers to.

    Raises:
        TeacherError: it is no ONNX graph, or lacks its weights.
    """
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # a damaged file can raise any
        raise TeacherError(f"{path} is no ONNX graph: {error}. Give another file.") from error
    digest = hashlib.sha256(file_sha256(path).encode())
    entries = (entry for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location")
    for name in sorted({entry.value for entry in entries}):
        if not (path.parent / name).is_file():
            raise TeacherError(f"{path}: expected its weights in {name} beside it, found none. Copy both files.")
        digest.update(file_sha256(path.parent / name).encode())
    return digest.hexdigest()


class OnnxTeacher:
    """A graph whose first output is the logits of a data set's labels."""

    def __init__(self, file: TeacherFile, label_names: Sequence[str], channels: int) -> None:
        """Open and check it.

        Raises:
            TeacherError: there is no such file, its input is not described or of another kind, or its labels differ.
        """
        path = Path(file.path)
        if not path.is_file():
            raise TeacherError(f"expected the teacher's ONNX graph at {path}, found no such file. Check the path.")
        content = _hash(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no common class
            raise TeacherError(f"ONNX Runtime cannot load {path}: {error}") from error
        described = _described(path, self._session)
        _check_labels(path, described.get("labels"), label_names)
        self.labels = len(label_names)
        self.input = _input(file, self._session, described, channels)
        self.size = self.input.size
        self._check_output(path)
        self.identity = hashlib.sha256(json.dumps([content, asdict(self.input)]).encode()).hexdigest()

    def _check_output(self, path: Path) -> None:
        shape = self._session.get_outputs()[0].shape
        if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != self.labels):
            raise TeacherError(
                f"{path}: expected logits (N, {self.labels}), one for each of the data set's labels, found an output of"
                f" shape {shape}. Give a classifier of the same labels."
            )

    def logits(self, images_BCYX: Tensor) -> Tensor:
        """Logits (B, K) for images in 0 .. 1."""
        taken = self.input
        if taken.mean:
            images_BCYX = normalise(images_BCYX.cpu(), torch.tensor(taken.mean), torch.tensor(taken.std))
        else:
            images_BCYX = (images_BCYX.cpu() * 255).round()
        if taken.layout == "nhwc":
            images_BCYX = images_BCYX.permute(0, 2, 3, 1)
        values = images_BCYX.numpy().astype(TYPES[taken.dtype])
        at_once = taken.batch or EVALUATION_BATCH["cpu"]
        return torch.cat([self._run(values[first : first + at_once]) for first in range(0, len(values), at_once)])

    def _run(self, values: Any) -> Tensor:
        images, batch = len(values), self.input.batch or len(values)
        if images < batch:
            values = np.concatenate([values, np.repeat(values[-1:], batch - images, 0)])
        output = self._session.run(
            [self._session.get_outputs()[0].name], {self.input.name: np.ascontiguousarray(values)}
        )
        return torch.from_numpy(np.asarray(output[0], np.float32))[:images]


def _described(path: Path, session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """What the bundle's manifest or the file's metadata say of the graph."""
    if path.name == CLASSIFY_GRAPH and (path.parent / MANIFEST).is_file():
        try:
            return {"labels": list(read_manifest(path.parent).labels)}
        except BundleError as error:
            raise TeacherError(f"{path}: its bundle is damaged: {error}") from error
    text = session.get_modelmeta().custom_metadata_map.get(METADATA, "{}")
    try:
        described = json.loads(text)
    except json.JSONDecodeError:
        described = None
    if not isinstance(described, dict):
        raise TeacherError(f"{path}: expected a JSON object under {METADATA!r} in its metadata, found {text[:80]!r}.")
    return described


def _check_labels(path: Path, stated: Sequence[str] | None, label_names: Sequence[str]) -> None:
    if stated is None or list(stated) == list(label_names):
        return
    differing = [
        f"{own!r} where it has {other!r}" for own, other in zip(label_names, stated, strict=False) if own != other
    ]
    what = differing[0] if differing else f"{len(label_names)} labels where it has {len(stated)}"
    raise TeacherError(
        f"{path}: expected a teacher of the data set's labels in their order, found another: {what}. Give a classifier"
        " of the same labels."
    )


def _input(
    file: TeacherFile, session: onnxruntime.InferenceSession, described: dict[str, Any], channels: int
) -> TeacherInput:
    """The graph's input, by what the file and the command line say."""
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in TYPES:
        stated = ", ".join(f"{entry.name}: {entry.type} {entry.shape}" for entry in inputs)
        raise TeacherError(
            f"{file.path}: expected one input of images, four axes of uint8, float32 or float16, found {stated}."
        )
    (entry,) = inputs
    layout = _layout(file, entry.shape, channels)
    mean, std = _normalisation(file, entry.type, described, channels)
    batch = entry.shape[0] if isinstance(entry.shape[0], int) else None
    return TeacherInput(entry.name, _size(file, entry.shape, layout), layout, entry.type, batch, mean, std)


def _layout(file: TeacherFile, shape: Sequence[Any], channels: int) -> Layout:
    places: dict[Layout, Any] = {"nchw": shape[1], "nhwc": shape[3]}
    fitting = [layout for layout, place in places.items() if place == channels]
    if file.layout is not None:
        fitting = [layout for layout in fitting or [file.layout] if layout == file.layout]
    if len(fitting) != 1:
        raise TeacherError(
            f"{file.path}: expected {channels} channels on the second axis (nchw) or the last (nhwc), found an input of"
            f" shape {list(shape)}. State it by --teacher-layout, or give a classifier of such images."
        )
    return fitting[0]


def _size(file: TeacherFile, shape: Sequence[Any], layout: Layout) -> int:
    sides = [side for side in (shape[2:] if layout == "nchw" else shape[1:3]) if isinstance(side, int)]
    sizes = {*sides, *([] if file.size is None else [file.size])}
    if len(sizes) != 1:
        stated = "none" if not sizes else " and ".join(str(size) for size in sorted(sizes))
        raise TeacherError(
            f"{file.path}: expected square images of one size, found {stated} pixels a side for an input of shape"
            f" {list(shape)}. State the size by --teacher-size."
        )
    return sizes.pop()


def _normalisation(
    file: TeacherFile, kind: str, described: dict[str, Any], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = file.mean or described.get("mean"), file.std or described.get("std")
    if kind == "tensor(uint8)":
        if mean or std:
            raise TeacherError(
                f"{file.path}: expected no mean and deviation, as it takes pixels as they are, found them stated. Leave"
                " out --teacher-mean and --teacher-std."
            )
        return (), ()
    if mean is None or std is None or not len(mean) == len(std) == channels or min(std) <= 0:
        raise TeacherError(
            f"{file.path}: expected the mean and a deviation above 0 that its images are normalised by, {channels}"
            f" values each, found {mean} and {std}. State them, of values in 0 to 1: --teacher-mean 0.485,0.456,0.406"
            " --teacher-std 0.229,0.224,0.225, say."
        )
    return tuple(mean), tuple(std)


class CCTTeacher:
    """A model of ours that learnt the same data set."""

    def __init__(
        self, file: TeacherFile, labels: int, channels: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """Load and check it.

        Args:
            mean: of the data set.
            std: likewise.

        Raises:
            CheckpointError: there is no such file, or it is no model of ours.
            TeacherError: it has another number of labels or channels, or its input is described.
        """
        if (file.size, file.layout, file.mean, file.std) != (None,) * 4:
            raise TeacherError(
                f"{file.path} is a model of ours, whose input is known: leave out --teacher-size, --teacher-layout,"
                " --teacher-mean and --teacher-std."
            )
        path = weights_path(file.path)
        self._model: CCT = load_model(path).float()
        config = self._model.config
        if (config.labels, config.channels) != (labels, channels):
            raise TeacherError(
                f"{file.path}: expected a teacher of {labels} labels and {channels} channels, found {config.labels} and"
                f" {config.channels}. Give a model that learnt this data set."
            )
        self.labels, self.size = labels, config.image_size
        self._mean_C, self._std_C = torch.tensor(mean), torch.tensor(std)
        identity = [file_sha256(path), list(mean), list(std)]
        self.identity = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    @torch.no_grad()
    def logits(self, images_BCYX: Tensor) -> Tensor:
        """Logits (B, K) for images in 0 .. 1."""
        normalised_BCYX = normalise(images_BCYX.cpu(), self._mean_C, self._std_C)
        logits_BK: Tensor = self._model(normalised_BCYX.contiguous(memory_format=torch.channels_last))[0]
        return logits_BK


def load_teacher(
    file: TeacherFile, label_names: Sequence[str], mean: Sequence[float], std: Sequence[float]
) -> ImageTeacher:
    """The teacher for a data set of these labels and channels.

    Args:
        mean: of the data set's channels.
        std: likewise.

    Raises:
        TeacherError, CheckpointError: there is none, or it does not fit.
    """
    if file.is_graph:
        return OnnxTeacher(file, label_names, len(mean))
    return CCTTeacher(file, len(label_names), len(mean), mean, std)
