"""ONNX graphs: the same function as torch, with one file of weights."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import support
import torch
from headwise.graphs import INPUTS, OUTPUTS
from headwise_exporter.bench.sessions import open_session
from headwise_exporter.export.attribution import Classify, ExactSplit
from headwise_exporter.export.graphs import OPSET, WEIGHTS, ExportError, check_graphs, export_graphs, run_graph
from headwise_exporter.export.maps import TokenMaps
from headwise_exporter.export.silencing import SilencedHeads
from torch import nn


@dataclass(frozen=True)
class Exported:
    """Modules of a model, and the graphs that were made of them."""

    split: ExactSplit
    silenced: SilencedHeads
    folder: Path

    def expected(self, graph: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What torch gives for what a graph takes."""
        modules: dict[str, nn.Module] = {
            "classify.onnx": Classify(self.split.normalise, self.split.model),
            "explain.onnx": self.split,
            "maps.onnx": TokenMaps(self.split),
            "silenced.onnx": self.silenced,
        }
        with torch.no_grad():
            outputs = modules[graph](*(torch.from_numpy(inputs[name]) for name in INPUTS[graph]))
        named = outputs if isinstance(outputs, dict) else dict(zip(OUTPUTS[graph], (outputs,), strict=True))
        return {name: value.numpy() for name, value in named.items()}


@pytest.fixture(scope="module", params=["uneven", "without some sub-blocks"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Of a random model whose encoders differ in every size, and of one that lacks sub-blocks."""
    model = support.random_model(support.PRUNED_SHAPES[request.param])
    split = support.random_split(model)
    silenced = SilencedHeads(split.normalise, model, support.random_means(model)).eval()
    folder = tmp_path_factory.mktemp("graphs")
    export_graphs(split, silenced, folder)
    return Exported(split, silenced, folder)


@pytest.fixture(scope="module")
def folder(exported: Exported) -> Path:
    """The exported graphs."""
    return exported.folder


@pytest.fixture(scope="module")
def split(exported: Exported) -> ExactSplit:
    """Of the exported model."""
    return exported.split


def random_images(count: int) -> np.ndarray:
    """uint8 images of the small model's size."""
    return support.random_pixels(support.SMALL, count, seed=count).numpy()


def random_inputs(exported: Exported, batch: int, targets: int) -> dict[str, np.ndarray]:
    """Images with targets, ranks and positions mixed, and silent heads."""
    random = np.random.default_rng(batch)
    heads = sum(shape.heads for shape in exported.split.model.config.encoders)
    return {
        "images": random_images(batch),
        "targets": random.integers(-10, 10, (batch, targets)),
        "silenced": random.random((batch, heads)) < 0.5,
    }


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("graph", INPUTS)
def test_graphs_compute_what_torch_does_at_any_batch(exported: Exported, graph: str, engine: str) -> None:
    """Every output is torch's to 1e-4 of its scale on every engine; images and targets may be any number."""
    run = open_session(exported.folder / graph, engine, "f32", threads=1).run
    for batch, targets in ((1, 1), (2, 3), (9, 10), (3, 7)):
        inputs = random_inputs(exported, batch, targets)
        outputs = run(**{name: inputs[name] for name in INPUTS[graph]})
        expected = exported.expected(graph, inputs)
        assert set(outputs) == set(expected) == set(OUTPUTS[graph])
        for name, value in outputs.items():
            assert value.dtype == expected[name].dtype
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("labels", [10, 100])
def test_equal_logits_are_ranked_in_the_order_of_the_labels(labels: int, engine: str, tmp_path: Path) -> None:
    """On every engine as in torch: a model whose logits are equal in pairs, all of them targets."""
    model = support.random_model(replace(support.SMALL, labels=labels))
    with torch.no_grad():
        for values in (model.classifier.fc.weight, model.classifier.fc.bias):
            values[1::2] = values[::2]
    split = support.random_split(model)
    export_graphs(split, SilencedHeads(split.normalise, model, support.random_means(model)).eval(), tmp_path)
    images = random_images(4)
    targets = np.tile(-1 - np.arange(labels), (4, 1))
    outputs = open_session(tmp_path / "maps.onnx", engine, "f32", threads=1).run(images, targets=targets)
    ranked = np.argsort(-outputs["logits"], axis=1, kind="stable")
    assert np.array_equal(outputs["target_indices"], ranked)
    assert np.array_equal(ranked[:, 1::2], ranked[:, ::2] + 1)


def test_both_graphs_give_the_same_logits(folder: Path) -> None:
    """Explain's logits are Classify's to 1e-5 of their scale."""
    images = random_images(5)
    classified = run_graph(folder / "classify.onnx", images)["logits"]
    explained = run_graph(folder / "explain.onnx", images)["logits"]
    np.testing.assert_allclose(explained, classified, atol=1e-5 * max(1.0, np.abs(classified).max()))


def test_weights_are_shared(exported: Exported) -> None:
    """What several graphs use stands once in the file of weights, and the graphs themselves are small."""
    folder, split = exported.folder, exported.split
    weights = 4 * sum(parameter.numel() for parameter in split.model.parameters())
    tables = 4 * sum(buffer.numel() for buffer in split.buffers())
    assert (folder / WEIGHTS).stat().st_size < 1.2 * (weights + tables)
    assert sum((folder / name).stat().st_size for name in INPUTS) < 2 * weights + tables + 400_000
    classify, explain, maps, silenced = (
        {
            entry.value
            for tensor in onnx.load(folder / name, load_external_data=False).graph.initializer
            for entry in tensor.external_data
            if entry.key == "offset"
        }
        for name in INPUTS
    )
    assert classify <= explain <= maps
    assert classify <= silenced


def test_graphs_name_nothing_of_the_machine(folder: Path) -> None:
    """No path or stack trace of the exporting machine is in the files."""
    for name in INPUTS:
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


def test_difference_to_the_golden_set_is_named(exported: Exported) -> None:
    """An output that differs from torch's is an error with its name and the difference."""
    golden = random_inputs(exported, 3, 3)
    for graph in INPUTS:
        golden |= {name: value.copy() for name, value in exported.expected(graph, golden).items()}
    differences = check_graphs(exported.folder, golden, 1e-3)
    assert set(differences) == {f"{graph}:{name}" for graph, names in OUTPUTS.items() for name in names}
    golden["biases"] += 0.5
    with pytest.raises(ExportError, match=r"explain.onnx:biases differs from torch by 0.5"):
        check_graphs(exported.folder, golden, 1e-3)
