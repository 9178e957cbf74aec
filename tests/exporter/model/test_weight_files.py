"""State dicts of a model from the files that training scripts write."""

import datetime
import io
from argparse import Namespace
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
import torch
from headwise_exporter.model.checkpoints import CheckpointError, save_model
from headwise_exporter.model.weight_files import read_weights
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]
NAMES = support.random_model().state_dict().keys()


def prefixed(prefix: str, state: State) -> State:
    """The same tensors under longer names."""
    return {prefix + name: tensor for name, tensor in state.items()}


def same(read: State, state: State) -> bool:
    """Whether names and values are the same."""
    return read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)


@pytest.fixture
def state() -> State:
    """Of the small model."""
    return dict(support.random_model(seed=1).state_dict())


@pytest.fixture
def other() -> State:
    """The same names with other values."""
    return dict(support.random_model(seed=2).state_dict())


@pytest.mark.parametrize("suffix", ["pth", "pt", "pth.tar", "ckpt", "bin", "safetensors"])
@pytest.mark.parametrize("old_format", [False, True])
def test_content_decides_the_format(state: State, suffix: str, old_format: bool, tmp_path: Path) -> None:
    """What torch.save wrote is read under any suffix, as an archive and in the older format."""
    torch.save(state, tmp_path / f"x.{suffix}", _use_new_zipfile_serialization=not old_format)
    assert same(read_weights(tmp_path / f"x.{suffix}", NAMES).tensors, state)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_of_others_are_read(
    state: State, suffix: str, metadata: dict[str, str] | None, tmp_path: Path
) -> None:
    """Without our metadata there is no configuration, and prefixes are stripped as of any other file."""
    save_file(prefixed("module.", state), tmp_path / f"x.{suffix}", metadata)
    loaded = read_weights(tmp_path / f"x.{suffix}", NAMES)
    assert same(loaded.tensors, state)
    assert loaded.config is None


def test_file_of_ours_has_its_configuration(tmp_path: Path) -> None:
    """Our metadata say what the weights are of."""
    save_model(tmp_path / "x.bin", support.random_model())
    assert read_weights(tmp_path / "x.bin", NAMES).config == support.small_config()


@pytest.mark.parametrize(
    ("averaged", "plain"),
    [
        ("state_dict_ema", "state_dict"),
        ("model_ema", "model"),
        ("ema_state_dict", "model_state_dict"),
        ("ema", "state_dict"),
        ("model_EMA", "model"),
    ],
)
def test_averaged_weights_are_preferred(state: State, other: State, averaged: str, plain: str, tmp_path: Path) -> None:
    """Those that validated better are meant; without them the plain ones are taken, and the key is known."""
    torch.save({"epoch": 3, plain: other, averaged: state}, tmp_path / "both.pth")
    loaded = read_weights(tmp_path / "both.pth", NAMES)
    assert (loaded.key, same(loaded.tensors, state)) == (averaged, True)
    torch.save({"epoch": 3, plain: other, averaged: None}, tmp_path / "plain.pth")
    loaded = read_weights(tmp_path / "plain.pth", NAMES)
    assert (loaded.key, same(loaded.tensors, other)) == (plain, True)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model.backbone."])
@pytest.mark.parametrize("nesting", [None, "state_dict", "cct"])
def test_prefixes_are_stripped(state: State, prefix: str, nesting: str | None, tmp_path: Path) -> None:
    """Whatever stands before every name, under any key; what stands beside the model is left out by name."""
    content: dict[str, Any] = prefixed(prefix, state) | {"criterion.weight": torch.ones(3)}
    torch.save({nesting: content} if nesting else content, tmp_path / "x.ckpt")
    loaded = read_weights(tmp_path / "x.ckpt", NAMES)
    assert same(loaded.tensors, state)
    assert (loaded.key, loaded.prefix, loaded.left_out) == (nesting or "", prefix, ("criterion.weight",))


def test_wrapped_parts_of_a_model_are_unwrapped(state: State, tmp_path: Path) -> None:
    """A part that was compiled by itself has the wrapper within its names."""
    wrapped = {name.replace("classifier.", "classifier._orig_mod."): tensor for name, tensor in state.items()}
    torch.save(wrapped, tmp_path / "x.pth")
    assert same(read_weights(tmp_path / "x.pth", NAMES).tensors, state)


def test_torchs_own_wrappers_are_unwrapped(tmp_path: Path) -> None:
    """An averaged, data-parallel model; the counter is left out, also where its prefix is gone."""
    model = support.random_model(seed=1)
    wrapped = torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(model))
    torch.save({"model_ema": wrapped.state_dict()}, tmp_path / "x.pth")
    loaded = read_weights(tmp_path / "x.pth", NAMES)
    assert same(loaded.tensors, model.state_dict())
    assert loaded.left_out == ("n_averaged",)
    torch.save({**model.state_dict(), "n_averaged": torch.tensor(3)}, tmp_path / "x.pth")
    assert same(read_weights(tmp_path / "x.pth", NAMES).tensors, model.state_dict())


def test_averaged_model_beside_the_trained_one_is_preferred(state: State, other: State, tmp_path: Path) -> None:
    """Two models in one state dict, as a Lightning module has them."""
    both = prefixed("model.", other) | prefixed("ema_model.module.", state)
    torch.save({"state_dict": both}, tmp_path / "x.ckpt")
    assert same(read_weights(tmp_path / "x.ckpt", NAMES).tensors, state)


def test_several_models_are_refused_by_name(state: State, other: State, tmp_path: Path) -> None:
    """Which is meant cannot be known."""
    torch.save({"state_dict": prefixed("student.", state) | prefixed("teacher.", other)}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"found 2 \(\"state_dict\" after 'student\.', \"state_dict\" after 'te"):
        read_weights(tmp_path / "x.ckpt", NAMES)


@pytest.mark.parametrize("old_format", [False, True])
def test_plain_values_beside_the_weights_are_no_obstacle(state: State, old_format: bool, tmp_path: Path) -> None:
    """What training scripts write: numpy's numbers and arrays, arguments, paths, dates, dicts with defaults."""
    content = {
        "epoch": 3,
        "best_acc": np.float64(0.8),
        "counts": np.arange(3),
        "args": Namespace(lr=0.1, data=Path("photos"), sizes={1, 2}, bounds=range(3)),
        "time": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        "history": defaultdict(list, {"loss": [1.0]}),
        "state_dict": state,
    }
    torch.save(content, tmp_path / "x.pth.tar", _use_new_zipfile_serialization=not old_format)
    assert same(read_weights(tmp_path / "x.pth.tar", NAMES).tensors, state)


def test_scalars_of_an_older_numpy_are_no_obstacle(state: State, tmp_path: Path) -> None:
    """numpy 1 had its functions in other modules, which are not imported."""
    content = io.BytesIO()
    torch.save({"best": np.float64(0.8), "model": state}, content, _use_new_zipfile_serialization=False)
    old = content.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert old != content.getvalue()
    (tmp_path / "x.pth").write_bytes(old)
    assert same(read_weights(tmp_path / "x.pth", NAMES).tensors, state)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.path)!r}, 'w')",)


@pytest.mark.parametrize("old_format", [False, True])
def test_pickle_that_would_run_code_is_refused_by_name(state: State, old_format: bool, tmp_path: Path) -> None:
    """Nothing of it runs; the error says what it wants, and does not propose to read it unsafely."""
    path = tmp_path / "x.pth"
    torch.save({**state, "x": Malicious(tmp_path / "ran")}, path, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(CheckpointError, match=r"found builtins\.exec, which could run code") as caught:
        read_weights(path, NAMES)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept_bytes", [0, 20, 5000, -100])
@pytest.mark.parametrize("kind", ["safetensors", "archive", "older"])
def test_part_of_a_file_is_called_damaged(state: State, kind: str, kept_bytes: int, tmp_path: Path) -> None:
    """Whatever its format and wherever it ends; it does not read as one that could run code."""
    path = tmp_path / "x"
    if kind == "safetensors":
        save_model(path, support.random_model())
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "archive")
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(CheckpointError, match="damaged file") as caught:
        read_weights(path, NAMES)
    assert "run code" not in str(caught.value)


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"version https://git-lfs", b"\x1f\x8b\x08\x00" * 9])
def test_another_format_is_said(content: bytes, tmp_path: Path) -> None:
    """A page of the web, a pointer, an archive of another kind."""
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"neither safetensors nor torch\.save wrote"):
        read_weights(tmp_path / "x.pth", NAMES)


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {"x": 1}}, {"epoch": 3}, torch.zeros(2)])
def test_file_without_a_state_dict_is_an_error(content: Any, tmp_path: Path) -> None:
    """Something else that torch saved is refused, with what to save instead."""
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"expected a state dict .*found something else\. Save one"):
        read_weights(tmp_path / "x.pt", NAMES)


def test_weights_of_another_model_are_named(tmp_path: Path) -> None:
    """No name in common: the first names say what it is."""
    torch.save({"conv1.weight": torch.ones(2), "fc.bias": torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"found those of another model \(conv1\.weight, fc\.bias\)"):
        read_weights(tmp_path / "x.pt", NAMES)
