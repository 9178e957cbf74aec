"""Training that starts from existing weights."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import support
import torch
from headwise_exporter.model import shipped
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import CheckpointError, save_model
from headwise_exporter.model.config import CCTConfig, cct, cct_7_3x1, cct_7_7x2
from headwise_exporter.model.initial_weights import (
    CLASSIFIER_TENSORS,
    POSITIONS,
    load_initial_weights,
    resize_positions,
)
from headwise_exporter.recipes import RECIPES
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]

# Names and shapes of the reference implementation's state dicts (SHI-Labs/Compact-Transformers, src/cct.py and
# src/utils/), `l` for the number of an encoder. They hold no buffers and nothing else.
REFERENCE_ENCODER = """
classifier.blocks.l.pre_norm.weight         256
classifier.blocks.l.pre_norm.bias           256
classifier.blocks.l.self_attn.qkv.weight    768 256
classifier.blocks.l.self_attn.proj.weight   256 256
classifier.blocks.l.self_attn.proj.bias     256
classifier.blocks.l.linear1.weight          512 256
classifier.blocks.l.linear1.bias            512
classifier.blocks.l.norm1.weight            256
classifier.blocks.l.norm1.bias              256
classifier.blocks.l.linear2.weight          256 512
classifier.blocks.l.linear2.bias            256
"""
REFERENCE_ENDS = """
classifier.attention_pool.weight            1 256
classifier.attention_pool.bias              1
classifier.norm.weight                      256
classifier.norm.bias                        256
"""
REFERENCE_3X1 = """
tokenizer.conv_layers.0.0.weight            256 3 3 3
classifier.positional_emb                   1 256 256
classifier.fc.weight                        100 256
classifier.fc.bias                          100
"""
REFERENCE_7X2 = """
tokenizer.conv_layers.0.0.weight            64 3 7 7
tokenizer.conv_layers.1.0.weight            256 64 7 7
classifier.positional_emb                   1 196 256
classifier.fc.weight                        102 256
classifier.fc.bias                          102
"""


def reference_state(own: str) -> State:
    """Values of the names and shapes of a CCT-7, all different."""
    tables = [own, REFERENCE_ENDS, *(REFERENCE_ENCODER.replace(".l.", f".{index}.") for index in range(7))]
    rows = [line.split() for line in "".join(tables).split("\n") if line]
    return {name: torch.randn(*map(int, shape)) for name, *shape in rows}


def untouched(model: CCT, before: State) -> bool:
    """Whether every value is what it was."""
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def copied(model: CCT) -> State:
    """The state dict, apart from the model."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def with_settings(**settings: Any) -> CCTConfig:
    """The small configuration, but for some settings."""
    return replace(support.small_config(), **settings)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[str, State]:
    """A file of ours and what is in it."""
    model = support.random_model(seed=1)
    save_model(tmp_path / "saved.safetensors", model)
    return str(tmp_path / "saved.safetensors"), copied(model)


def test_own_file_is_taken_whole(saved: tuple[str, State]) -> None:
    """Every tensor of a file of the same architecture is in the model afterwards, and the report names all."""
    path, state = saved
    model = support.random_model(seed=2)
    report = load_initial_weights(model, path)
    assert untouched(model, state)
    assert set(report.taken) == set(state)
    assert not report.resized
    assert not report.replaced
    assert report.describe() == f"initial weights from {path}: {len(state)} tensors as they are"


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_random_state_stay(saved: tuple[str, State], training: bool) -> None:
    """The model keeps its mode and is learnt as before; random numbers afterwards do not depend on the loading."""
    model = support.random_model().train(training)
    before = torch.get_rng_state()
    load_initial_weights(model, saved[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training == training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_half_precision_is_cast(saved: tuple[str, State], suffix: str, tmp_path: Path) -> None:
    """Weights in float16 become the model's float32."""
    half, path = {name: value.half() for name, value in saved[1].items()}, tmp_path / f"half.{suffix}"
    if suffix == "pth":
        torch.save(half, path)
    else:
        with safe_open(saved[0], "pt") as file:
            save_file(half, path, file.metadata())
    model = support.random_model(seed=2)
    load_initial_weights(model, str(path))
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert untouched(model, {name: value.float() for name, value in half.items()})


@pytest.mark.parametrize(
    ("config", "table"), [(cct_7_3x1(), REFERENCE_3X1), (cct_7_7x2(), REFERENCE_7X2)], ids=["cct_7_3x1", "cct_7_7x2"]
)
def test_reference_checkpoint_is_taken_whole(config: CCTConfig, table: str, tmp_path: Path) -> None:
    """The reference implementation's names and shapes leave nothing missing and nothing over."""
    state, model = reference_state(table), CCT(config)
    torch.save(state, tmp_path / "reference.pth")
    report = load_initial_weights(model, str(tmp_path / "reference.pth"))
    assert sorted(report.taken) == sorted(state) == sorted(model.state_dict())
    assert untouched(model, state)


def test_positions_are_resized_to_another_image_size(saved: tuple[str, State]) -> None:
    """16 tokens of an 8-pixel model become the 64 of a 16-pixel one; everything else is taken as it is."""
    path, state = saved
    model = support.random_model(with_settings(image_size=16), seed=2)
    report = load_initial_weights(model, path)
    assert report.resized == {POSITIONS: (16, 64)}
    assert set(report.taken) == set(state) - {POSITIONS}
    assert report.describe().endswith("classifier.positional_emb resized from 16 to 64 tokens")
    assert untouched(model, state | {POSITIONS: resize_positions(state[POSITIONS], 64)})


def test_same_number_of_positions_stays() -> None:
    """Without a change there is no interpolation, also where the number is no square."""
    positions_1TD = torch.randn(1, 15, 4)
    assert resize_positions(positions_1TD, 15) is positions_1TD


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("tokens", [4, 64, 100])
def test_constant_positions_stay_constant(tokens: int, dtype: torch.dtype) -> None:
    """Every dimension keeps its value when all tokens have the same."""
    values_D = torch.tensor([1.5, -2.0, 0.0], dtype=dtype)
    resized_1TD = resize_positions(values_D.expand(1, 16, 3), tokens)
    torch.testing.assert_close(resized_1TD, values_D.expand(1, tokens, 3))


def test_rows_and_columns_are_not_exchanged() -> None:
    """What depends on the column alone still does, rises along it, and is the ramp between the borders."""
    column_1TD = torch.arange(4.0).repeat(4).view(1, 16, 1)
    grid_YX = resize_positions(column_1TD, 64).view(8, 8)
    torch.testing.assert_close(grid_YX, grid_YX[:1].expand(8, 8))
    torch.testing.assert_close(grid_YX[0, 3:5], torch.tensor([1.25, 1.75]))
    assert (grid_YX[0].diff() > 0).all()


@pytest.mark.parametrize(("tokens", "target"), [(17, 64), (16, 60)])
def test_positions_that_are_no_square_are_refused(tokens: int, target: int) -> None:
    """A number of tokens without a square grid cannot be resized."""
    with pytest.raises(ValueError, match=f"expected square grids of tokens, found {tokens} to be resized to {target}"):
        resize_positions(torch.zeros(1, tokens, 2), target)


def test_file_whose_positions_are_no_square_is_refused(saved: tuple[str, State], tmp_path: Path) -> None:
    """A class token among the positions is a mismatch, and the message has the reason."""
    torch.save(saved[1] | {POSITIONS: torch.zeros(1, 17, 32)}, tmp_path / "x.pth")
    expected = r"positional_emb of shape \(1, 17, 32\) instead of \(1, 16, 32\), and only square numbers of tokens"
    with pytest.raises(CheckpointError, match=expected):
        load_initial_weights(support.random_model(), str(tmp_path / "x.pth"))


def test_classifier_for_other_labels_stays_as_initialised(saved: tuple[str, State]) -> None:
    """Only the classifier head keeps the model's own values when the number of labels differs."""
    path, state = saved
    model = support.random_model(with_settings(labels=7), seed=2)
    fresh = {name: value for name, value in copied(model).items() if name in CLASSIFIER_TENSORS}
    report = load_initial_weights(model, path)
    assert report.replaced == {"classifier.fc.weight": (10, 7), "classifier.fc.bias": (10, 7)}
    assert untouched(model, state | fresh)
    assert report.describe().endswith(
        "classifier.fc.weight and classifier.fc.bias left as initialised (7 labels, 10 in the file)"
    )


def test_mismatches_are_one_line_and_nothing_is_changed(saved: tuple[str, State], tmp_path: Path) -> None:
    """Missing, unexpected, of another shape, not finite: the first three and how many more; the model is as it was."""
    state: State = saved[1] | {
        "classifier.fc.bias": torch.zeros(11),
        "classifier.class_emb": torch.zeros(1, 1, 32),
        "classifier.norm.weight": torch.full((32,), torch.nan),
        "classifier.blocks.0.norm1.weight": torch.zeros(32, dtype=torch.int8),
    }
    del state["classifier.blocks.1.linear2.bias"], state["classifier.attention_pool.bias"]
    torch.save(state, tmp_path / "x.pth")
    model = support.random_model(with_settings(image_size=16), seed=2)
    before = copied(model)
    with pytest.raises(CheckpointError) as caught:
        load_initial_weights(model, str(tmp_path / "x.pth"))
    assert str(caught.value) == (
        "expected weights that fit the model, found others (classifier.blocks.1.linear2.bias missing, "
        "classifier.attention_pool.bias missing, classifier.class_emb unexpected and 3 more) in "
        f"{tmp_path / 'x.pth'}; no shipped checkpoint fits."
    )
    assert untouched(model, before)


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (torch.full((32,), torch.nan), r"\(torch\.float32\)"),
        (torch.zeros(32, dtype=torch.int8), r"\(torch\.int8\)"),
    ],
)
def test_values_that_are_not_finite_numbers_are_refused(
    saved: tuple[str, State], tensor: Tensor, problem: str, tmp_path: Path
) -> None:
    """Neither NaN nor integers are weights."""
    torch.save(saved[1] | {"classifier.norm.weight": tensor}, tmp_path / "x.pth")
    expected = "classifier.norm.weight without finite floating-point values " + problem
    with pytest.raises(CheckpointError, match=expected):
        load_initial_weights(support.random_model(), str(tmp_path / "x.pth"))


@pytest.mark.parametrize("own", [True, False], ids=["own", "reference"])
def test_another_architecture_is_said_in_its_settings(saved: tuple[str, State], own: bool, tmp_path: Path) -> None:
    """One sentence with what was expected and found, of our files as of bare tensors."""
    torch.save(saved[1], tmp_path / "x.pth")
    model = CCT(cct(image_size=8, channels=3, labels=10, depth=3, heads=4, width=64, feed_forward=48))
    path = saved[0] if own else str(tmp_path / "x.pth")
    with pytest.raises(CheckpointError) as caught:
        load_initial_weights(model, path)
    assert str(caught.value) == (
        "expected weights of a model of channels 3, depth 3, width 64, found channels 1, depth 2, width 32 in "
        f"{path}; no shipped checkpoint fits."
    )


def test_misfit_names_the_shipped_checkpoints_that_fit(saved: tuple[str, State]) -> None:
    """Where another file would do, the error has its name."""
    model = CCT(RECIPES["folder"]().model.config(64, 3, 5))
    with pytest.raises(CheckpointError, match=r"found channels 1, .*; checkpoint:flowers102, .*_taught fit\.$"):
        load_initial_weights(model, saved[0])


@pytest.mark.parametrize(
    ("name", "shape"),
    [("classifier.positional_emb", (16, 32)), ("classifier.fc.weight", ()), ("classifier.fc.weight", (7, 31))],
)
def test_malformed_positions_and_classifier_are_mismatches(
    saved: tuple[str, State], name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """What may differ in its number of tokens or labels may not differ otherwise."""
    torch.save(saved[1] | {name: torch.zeros(shape)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=re.escape(f"{name} of shape {shape}")):
        load_initial_weights(support.random_model(), str(tmp_path / "x.pth"))


def test_classifier_that_is_missing_is_a_mismatch(saved: tuple[str, State], tmp_path: Path) -> None:
    """A checkpoint without its classifier head is not taken for one of other labels."""
    torch.save({name: value for name, value in saved[1].items() if name not in CLASSIFIER_TENSORS}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"classifier\.fc\.weight missing, classifier\.fc\.bias missing"):
        load_initial_weights(support.random_model(), str(tmp_path / "x.pth"))


def test_same_tensors_for_other_heads_are_a_mismatch(tmp_path: Path) -> None:
    """A file of ours states how heads share the rows; shapes alone would let another function pass."""
    save_model(
        tmp_path / "x.safetensors",
        CCT(cct(image_size=8, channels=1, labels=10, depth=2, heads=2, width=32, feed_forward=48)),
    )
    model = support.random_model()
    before = copied(model)
    with pytest.raises(CheckpointError, match=r"expected weights of a model of heads 4, found heads 2 in "):
        load_initial_weights(model, str(tmp_path / "x.safetensors"))
    assert untouched(model, before)


def test_missing_file_names_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is an error that names the path, and the shipped checkpoints if there are any."""
    monkeypatch.setattr(shipped, "SHIPPED_FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match=r"found no such file\. Check the path\.$"):
        load_initial_weights(support.random_model(), str(tmp_path / "none.pth"))
    save_model(tmp_path / "digits.safetensors", support.random_model())
    with pytest.raises(CheckpointError, match=r"none\.pth, found .*Check the path, or give checkpoint:digits\.$"):
        load_initial_weights(support.random_model(), str(tmp_path / "none.pth"))
