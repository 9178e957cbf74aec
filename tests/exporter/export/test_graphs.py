"""ONNX graphs: the same function as torch, with one file of weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import support
import torch
from headwise_exporter.export.attribution import OUTPUTS, Classify, ExactSplit
from headwise_exporter.export.graphs import OPSET, WEIGHTS, ExportError, check_graphs, export_graphs, run_graph


@pytest.fixture(scope="module")
def split() -> ExactSplit:
    """The split of a random model whose encoders differ in every size."""
    return support.random_split(support.random_model(support.uneven(support.SMALL)))


@pytest.fixture(scope="module")
def folder(split: ExactSplit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported graphs."""
    folder = tmp_path_factory.mktemp("graphs")
    export_graphs(split, folder)
    return folder


def random_images(count: int) -> np.ndarray:
    """uint8 images of the small model's size."""
    return np.random.default_rng(count).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_graphs_compute_what_torch_does_at_any_batch(folder: Path, split: ExactSplit, batch: int) -> None:
    """Every output of both graphs is torch's to 1e-4 of its scale; the batch is free."""
    images = random_images(batch)
    with torch.no_grad():
        expected = split(torch.from_numpy(images))
        logits = Classify(split.normalise, split.model)(torch.from_numpy(images))
    explained = run_graph(folder / "explain.onnx", images)
    assert tuple(explained) == OUTPUTS
    for name, value in explained.items():
        np.testing.assert_allclose(value, expected[name].numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        run_graph(folder / "classify.onnx", images)["logits"], logits.numpy(), rtol=1e-4, atol=1e-4
    )


def test_both_graphs_give_the_same_logits(folder: Path) -> None:
    """Explain's logits are Classify's to 1e-5 of their scale."""
    images = random_images(5)
    classified = run_graph(folder / "classify.onnx", images)["logits"]
    explained = run_graph(folder / "explain.onnx", images)["logits"]
    np.testing.assert_allclose(explained, classified, atol=1e-5 * max(1.0, np.abs(classified).max()))


def test_weights_are_shared(folder: Path, split: ExactSplit) -> None:
    """What both graphs use stands once in the file of weights, and the graphs themselves are small."""
    weights = 4 * sum(parameter.numel() for parameter in split.model.parameters())
    both = sum((folder / name).stat().st_size for name in ("classify.onnx", "explain.onnx", WEIGHTS))
    tables = 4 * sum(buffer.numel() for buffer in split.buffers())
    assert (folder / WEIGHTS).stat().st_size < 1.2 * (weights + tables)
    assert both < 2 * weights + tables + 200_000
    references = [
        {
            entry.value
            for tensor in onnx.load(folder / name, load_external_data=False).graph.initializer
            for entry in tensor.external_data
            if entry.key == "offset"
        }
        for name in ("classify.onnx", "explain.onnx")
    ]
    assert references[0] <= references[1]


def test_graphs_name_nothing_of_the_machine(folder: Path) -> None:
    """No path or stack trace of the exporting machine is in the files."""
    for name in ("classify.onnx", "explain.onnx"):
        content = (folder / name).read_bytes()
        assert b".py" not in content
        assert str(Path.cwd()).encode() not in content


def test_input_is_bytes_and_opset_is_stated(folder: Path) -> None:
    """uint8 NHWC with a free batch, at the opset whose int8 form runtimes load."""
    graph = onnx.load(folder / "classify.onnx", load_external_data=False)
    [images] = graph.graph.input
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dimensions = images.type.tensor_type.shape.dim
    assert dimensions[0].dim_param
    assert [dimension.dim_value for dimension in dimensions[1:]] == [8, 8, 1]
    assert [entry.version for entry in graph.opset_import if entry.domain == ""] == [OPSET]


def test_difference_to_the_golden_set_is_named(folder: Path, split: ExactSplit) -> None:
    """An output that differs from torch's is an error with its name and the difference."""
    images = random_images(3)
    with torch.no_grad():
        golden = {name: value.numpy().copy() for name, value in split(torch.from_numpy(images)).items()}
    golden["images"] = images
    differences = check_graphs(folder, golden, 1e-3)
    assert set(differences) == {"classify.onnx:logits", *(f"explain.onnx:{name}" for name in OUTPUTS)}
    golden["biases"] += 0.5
    with pytest.raises(ExportError, match=r"explain.onnx:biases differs from torch by 0.5"):
        check_graphs(folder, golden, 1e-3)
