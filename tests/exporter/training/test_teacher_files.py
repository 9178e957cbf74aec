"""Teachers from ONNX graphs and from models of ours."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import support
import torch
from headwise.bundle import read_manifest
from headwise_exporter.export.graphs import run_graph
from headwise_exporter.model.checkpoints import CheckpointError, save_model
from headwise_exporter.training.taught_views import TeacherError
from headwise_exporter.training.teacher_files import METADATA, CCTTeacher, OnnxTeacher, TeacherFile, load_teacher
from onnx import TensorProto, helper

NAMES = ("cat", "dog")
MEAN, STD = (0.25, 0.5, 0.75), (0.5, 0.25, 0.125)
FREE: list[int | str] = ["n", 3, 4, 4]


def graph(
    path: Path,
    shape: list[int | str] = FREE,
    kind: int = TensorProto.FLOAT,
    outputs: int = 2,
    metadata: dict[str, Any] | None = None,
) -> str:
    """A file whose logits are the first values of each image, flattened."""
    count = int(np.prod([int(side) for side in shape[1:] if not isinstance(side, str)]))
    nodes = [
        helper.make_node("Cast", ["images"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["values"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    weights = helper.make_tensor(
        "weights", TensorProto.FLOAT, (count, outputs), np.eye(count, outputs, dtype=np.float32).flatten()
    )
    images = helper.make_tensor_value_info("images", kind, shape)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], outputs])
    model = helper.make_model(
        helper.make_graph(nodes, "teacher", [images], [logits], [weights]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    if metadata is not None:
        helper.set_model_props(model, {METADATA: json.dumps(metadata)})
    onnx.save_model(model, path)
    return str(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a graph may be written."""
    return tmp_path / "teacher.onnx"


def load(file: TeacherFile) -> OnnxTeacher:
    """The teacher of cats and dogs."""
    return OnnxTeacher(file, NAMES, 3)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("batch", ["n", 4])
def test_images_are_normalised_and_laid_out_as_stated(path: Path, layout: str, batch: int | str) -> None:
    """By the command line, or by the metadata; a fixed batch is filled up."""
    shape: list[int | str] = [batch, 3, 4, 4] if layout == "nchw" else [batch, 4, 4, 3]
    images_BCYX = torch.rand(6, 3, 4, 4)
    first = images_BCYX[:, 0, 0, 0]
    second = images_BCYX[:, 0, 0, 1] if layout == "nchw" else images_BCYX[:, 1, 0, 0]
    channel = 0 if layout == "nchw" else 1
    wanted = torch.stack([(first - MEAN[0]) / STD[0], (second - MEAN[channel]) / STD[channel]], 1)
    stated = load(TeacherFile(graph(path, shape), mean=MEAN, std=STD))
    torch.testing.assert_close(stated.logits(images_BCYX), wanted)
    described = {"mean": MEAN, "std": STD, "labels": NAMES}
    torch.testing.assert_close(load(TeacherFile(graph(path, shape, metadata=described))).logits(images_BCYX), wanted)


def test_half_precision_is_taken(path: Path) -> None:
    """Images are cast."""
    teacher = load(TeacherFile(graph(path, kind=TensorProto.FLOAT16), mean=(0.0,) * 3, std=(1.0,) * 3))
    assert teacher.logits(torch.full((1, 3, 4, 4), 0.5)).tolist() == [[0.5, 0.5]]


def test_classify_graph_of_a_bundle_needs_no_description(bundle: Path) -> None:
    """Pixels as they are; the logits are those of the graph, the labels those of the manifest."""
    manifest = read_manifest(bundle)
    file = TeacherFile(str(bundle / "classify.onnx"))
    teacher = load_teacher(file, list(manifest.labels), (0.5,), (0.5,))
    pixels_BYXC = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
    wanted = run_graph(bundle / "classify.onnx", pixels_BYXC)["logits"]
    unit_BCYX = torch.from_numpy(pixels_BYXC).permute(0, 3, 1, 2) / 255
    assert (teacher.size, teacher.labels) == (8, 10)
    torch.testing.assert_close(teacher.logits(unit_BCYX), torch.from_numpy(wanted), atol=1e-4, rtol=0)
    with pytest.raises(TeacherError, match=r"data set's labels in their order, found another: 'x' where it has"):
        load_teacher(file, ["x", *list(manifest.labels)[1:]], (0.5,), (0.5,))


def test_weights_beside_the_graph_are_part_of_it(bundle: Path, tmp_path: Path) -> None:
    """Other weights make another teacher, and none an error."""
    labels = list(read_manifest(bundle).labels)
    for name in ("classify.onnx", "weights.bin"):
        shutil.copy(bundle / name, tmp_path)
    file, weights = TeacherFile(str(tmp_path / "classify.onnx")), tmp_path / "weights.bin"
    before = load_teacher(file, labels, (0.5,), (0.5,)).identity
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert load_teacher(file, labels, (0.5,), (0.5,)).identity != before
    weights.unlink()
    with pytest.raises(TeacherError, match=r"expected its weights in weights\.bin beside it, found none"):
        load_teacher(file, labels, (0.5,), (0.5,))


def test_identity_is_of_the_content_and_of_what_is_stated(path: Path, tmp_path: Path) -> None:
    """Not of the name."""
    one = load(TeacherFile(graph(path), mean=MEAN, std=STD)).identity
    assert load(TeacherFile(graph(tmp_path / "other.onnx"), mean=MEAN, std=STD)).identity == one
    assert load(TeacherFile(str(path), mean=STD, std=STD)).identity != one


@pytest.mark.parametrize(
    ("made", "stated", "expected"),
    [
        ({}, {}, r"expected the mean and a deviation above 0 .* 3 values each, found None and None.*--teacher-mean"),
        ({}, {"mean": (0.5,), "std": (0.5,)}, r"3 values each, found \(0\.5,\)"),
        ({}, {"mean": MEAN, "std": (0.0, 1.0, 1.0)}, "a deviation above 0"),
        ({"kind": TensorProto.UINT8}, {"mean": MEAN}, "takes pixels as they are"),
        ({"outputs": 3}, {"mean": MEAN, "std": STD}, r"expected logits \(N, 2\), .* found an output of shape"),
        ({"shape": ["n", 4, 4, 4]}, {"mean": MEAN, "std": STD}, "expected 3 channels on the second axis"),
        ({"shape": ["n", 3, 4, 3]}, {"mean": MEAN, "std": STD}, "State it by --teacher-layout"),
        ({"shape": ["n", 3, 4, 5]}, {"mean": MEAN, "std": STD}, "square images of one size, found 4 and 5"),
        ({}, {"mean": MEAN, "std": STD, "size": 8}, "square images of one size, found 4 and 8"),
        ({}, {"mean": MEAN, "std": STD, "layout": "nhwc"}, "expected 3 channels"),
        ({"shape": ["n", 48]}, {"mean": MEAN, "std": STD}, r"expected one input of images, four axes"),
        ({"kind": TensorProto.INT32}, {"mean": MEAN, "std": STD}, "uint8, float32 or float16"),
        ({"metadata": {"labels": ["cat", "cow"]}}, {"mean": MEAN, "std": STD}, "'dog' where it has 'cow'"),
        ({"metadata": {"labels": ["cat"]}}, {"mean": MEAN, "std": STD}, "2 labels where it has 1"),
    ],
)
def test_teacher_that_does_not_fit_is_refused(
    path: Path, made: dict[str, Any], stated: dict[str, Any], expected: str
) -> None:
    """With what was expected and what to do."""
    with pytest.raises(TeacherError, match=expected):
        load(TeacherFile(graph(path, **made), **stated))


def test_what_is_no_graph_is_refused(path: Path, tmp_path: Path) -> None:
    """No file, other content, or a graph of metadata that say nothing."""
    with pytest.raises(TeacherError, match="found no such file"):
        load(TeacherFile(str(path)))
    path.write_bytes(b"no graph")
    with pytest.raises(TeacherError, match="is no ONNX graph"):
        load(TeacherFile(str(path)))


def test_models_of_ours_teach_by_the_data_sets_own_normalisation(tmp_path: Path) -> None:
    """Their logits are those of the model; what is stated of their input is refused."""
    model, path = support.random_model(), tmp_path / "dense.safetensors"
    save_model(path, model)
    names = [str(number) for number in range(10)]
    images_BCYX = torch.rand(3, 1, 8, 8)
    teacher = load_teacher(TeacherFile(str(path)), names, (0.5,), (0.25,))
    wanted_BK = model((images_BCYX - 0.5) / 0.25)[0]
    torch.testing.assert_close(teacher.logits(images_BCYX), wanted_BK.detach(), atol=1e-4, rtol=1e-4)
    assert (teacher.size, teacher.labels) == (8, 10)
    assert load_teacher(TeacherFile(str(path)), names, (0.4,), (0.25,)).identity != teacher.identity
    with pytest.raises(TeacherError, match="leave out --teacher-size"):
        load_teacher(TeacherFile(str(path), size=8), names, (0.5,), (0.25,))
    with pytest.raises(TeacherError, match="expected a teacher of 2 labels and 1 channels, found 10 and 1"):
        load_teacher(TeacherFile(str(path)), NAMES, (0.5,), (0.25,))


def test_shipped_checkpoints_teach_by_name() -> None:
    """Another name lists those that there are."""
    names = [str(number) for number in range(10)]
    teacher = load_teacher(TeacherFile("checkpoint:digits"), names, (0.3,), (0.3,))
    assert isinstance(teacher, CCTTeacher)
    assert teacher.logits(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(CheckpointError, match="digits"):
        load_teacher(TeacherFile("checkpoint:nobody"), names, (0.3,), (0.3,))
