"""Tensors and models as files."""

import json
from pathlib import Path

import pytest
import support
import torch
from headwise_exporter.model.checkpoints import (
    CheckpointError,
    load_model,
    load_tensors,
    save_model,
    save_tensors,
)
from safetensors.torch import save_file


def test_model_comes_back_as_it_was(tmp_path: Path) -> None:
    """Configuration and every weight survive, and the model is in evaluation mode."""
    model = support.random_model(support.uneven(support.small_config()))
    save_model(tmp_path / "m.safetensors", model)
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.config == model.config
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    """Files can be compared by their hash, which is how stages know that nothing changed."""
    for number in range(8):
        save_model(tmp_path / f"{number}.safetensors", support.random_model())
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_missing_file_is_named(tmp_path: Path) -> None:
    """No file is an error that names the path."""
    with pytest.raises(CheckpointError, match=r"expected model at .*none.safetensors, found no such file"):
        load_model(tmp_path / "none.safetensors")


def test_damaged_file_is_an_error(tmp_path: Path) -> None:
    """Half a file is refused as damaged."""
    path = tmp_path / "m.safetensors"
    save_model(path, support.random_model())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="found a damaged file"):
        load_model(path)


def test_file_of_another_kind_is_named(tmp_path: Path) -> None:
    """Measurements are not a model, and a foreign file is neither."""
    save_tensors(tmp_path / "s.safetensors", {}, "measurements")
    with pytest.raises(CheckpointError, match=r"expected model .*found measurements"):
        load_model(tmp_path / "s.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="found something else"):
        load_tensors(tmp_path / "foreign.safetensors", "measurements")


def test_weights_that_do_not_fit_their_configuration_are_refused(tmp_path: Path) -> None:
    """A file whose tensors and configuration disagree is an error that names a tensor."""
    model = support.random_model()
    config = support.small_config(depth=3).to_dict()
    save_file(
        model.state_dict(), tmp_path / "m.safetensors", {"headwise": json.dumps({"kind": "model", "config": config})}
    )
    with pytest.raises(CheckpointError, match=r"(?s)do not fit its configuration: .*blocks\.2"):
        load_model(tmp_path / "m.safetensors")


def test_model_in_half_precision_is_read_in_single(tmp_path: Path) -> None:
    """Half the size; the weights are rounded to 11 bits, the model computes as any other."""
    model = support.random_model()
    save_model(tmp_path / "single.safetensors", model)
    save_model(tmp_path / "half.safetensors", support.random_model().half())
    loaded = load_model(tmp_path / "half.safetensors")
    assert loaded.classifier.fc.weight.dtype == torch.float32
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=2**-11, atol=2**-24)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "single")]
    assert sizes[0] < 0.6 * sizes[1]
