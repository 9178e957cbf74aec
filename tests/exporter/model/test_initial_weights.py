"""Training that starts from existing weights."""

import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import support
import torch
from headwise_exporter.model.cct import CCT, CCTConfig, cct_7_3x1, cct_7_7x2
from headwise_exporter.model.checkpoints import CheckpointError, save_model
from headwise_exporter.model.initial_weights import (
    CLASSIFIER_TENSORS,
    POSITIONS,
    load_initial_weights,
    resize_positions,
    shipped_checkpoint,
)
from headwise_exporter.model.shipped import SHIPPED_FOLDER, shipped_checkpoints
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


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nesting", [None, "state_dict", "model"])
@pytest.mark.parametrize("suffix", ["pth", "pt"])
def test_nested_and_prefixed_state_dicts(
    saved: tuple[str, State], prefix: str, nesting: str | None, suffix: str, tmp_path: Path
) -> None:
    """A state dict may stand bare or below a key, beside a training script's settings, with or without a prefix."""
    state: dict[str, Any] = {f"{prefix}{name}": value for name, value in saved[1].items()}
    beside = {"epoch": 3, "arch": "cct", "args": Namespace(lr=0.1, mean=(0.5,)), "metric": 1.0}
    torch.save({**beside, nesting: state} if nesting else state, tmp_path / f"other.{suffix}")
    model = support.random_model(seed=2)
    load_initial_weights(model, str(tmp_path / f"other.{suffix}"))
    assert untouched(model, saved[1])


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "ran")


@pytest.mark.parametrize("old_format", [False, True])
def test_pickle_that_would_run_code_is_refused(old_format: bool, tmp_path: Path) -> None:
    """Nothing of it runs, the error does not propose to read it unsafely, and the model is as it was."""
    model = support.random_model()
    before, path = copied(model), tmp_path / "malicious.pth"
    torch.save({**before, "x": Malicious(tmp_path / "ran")}, path, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(CheckpointError, match="could run code and is not read") as caught:
        load_initial_weights(model, str(path))
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert untouched(model, before)


@pytest.mark.parametrize("kept_bytes", [0, 20, 5000])
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_damaged_file_is_an_error(saved: tuple[str, State], suffix: str, kept_bytes: int, tmp_path: Path) -> None:
    """The beginning of a file is refused as damaged."""
    whole, part = tmp_path / f"saved.{suffix}", tmp_path / f"part.{suffix}"
    torch.save(saved[1], tmp_path / "saved.pth")
    part.write_bytes(whole.read_bytes()[:kept_bytes])
    with pytest.raises(CheckpointError, match="damaged file"):
        load_initial_weights(support.random_model(), str(part))


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {"x": 1}}, {"epoch": 3}, torch.zeros(2)])
def test_file_without_a_state_dict_is_an_error(content: Any, tmp_path: Path) -> None:
    """Something else that torch saved is refused, with what to save instead."""
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"expected a state dict .*found something else\. Save one"):
        load_initial_weights(support.random_model(), str(tmp_path / "x.pt"))


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
    expected = r"positional_emb: expected \(1, 16, 32\), found \(1, 17, 32\) \(only square numbers of tokens"
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


def test_every_mismatch_is_listed_and_nothing_is_changed(saved: tuple[str, State], tmp_path: Path) -> None:
    """Missing, unexpected, of another shape, not finite: all in one error, and the model is as it was."""
    state: State = saved[1] | {
        "tokenizer.conv_layers.0.0.weight": torch.zeros(32, 3, 3, 3),
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
    first, *problems, last = str(caught.value).split("\n")
    assert first.startswith("expected weights that fit the model, found in ")
    assert sorted(problem.strip() for problem in problems) == [
        "classifier.attention_pool.bias: missing",
        "classifier.blocks.0.norm1.weight: expected finite floating-point values, found others (torch.int8)",
        "classifier.blocks.1.linear2.bias: missing",
        "classifier.class_emb: unexpected",
        "classifier.fc.bias: expected (10,), found (11,)",
        "classifier.norm.weight: expected finite floating-point values, found others (torch.float32)",
        "tokenizer.conv_layers.0.0.weight: expected (32, 1, 3, 3), found (32, 3, 3, 3)",
    ]
    assert last.startswith("Choose weights of this architecture")
    assert untouched(model, before)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("classifier.positional_emb", (16, 32)), ("classifier.fc.weight", ()), ("classifier.fc.weight", (7, 31))],
)
def test_malformed_positions_and_classifier_are_mismatches(
    saved: tuple[str, State], name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """What may differ in its number of tokens or labels may not differ otherwise."""
    torch.save(saved[1] | {name: torch.zeros(shape)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=re.escape(f"{name}: expected") + ".*" + re.escape(f"found {shape}")):
        load_initial_weights(support.random_model(), str(tmp_path / "x.pth"))


def test_classifier_that_is_missing_is_a_mismatch(saved: tuple[str, State], tmp_path: Path) -> None:
    """A checkpoint without its classifier head is not taken for one of other labels."""
    torch.save({name: value for name, value in saved[1].items() if name not in CLASSIFIER_TENSORS}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"classifier\.fc\.weight: missing\n  classifier\.fc\.bias: missing"):
        load_initial_weights(support.random_model(), str(tmp_path / "x.pth"))


def test_same_tensors_for_other_heads_are_a_mismatch(tmp_path: Path) -> None:
    """A file of ours states how heads share the rows; shapes alone would let another function pass."""
    config = support.small_config()
    shapes = tuple(replace(shape, heads=2, query_key_dim=16, value_dim=16) for shape in config.encoders)
    save_model(tmp_path / "x.safetensors", CCT(with_settings(encoders=shapes, query_key_scale=0.25)))
    model = support.random_model(config)
    before = copied(model)
    with pytest.raises(
        CheckpointError, match=r"query_key_scale: .*found 0\.25\n  heads: expected \(4, 4\), found \(2, 2"
    ):
        load_initial_weights(model, str(tmp_path / "x.safetensors"))
    assert untouched(model, before)


def test_missing_file_names_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is an error that names the path, and the shipped checkpoints if there are any."""
    monkeypatch.setattr("headwise_exporter.model.shipped.SHIPPED_FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match=r"found no such file\. Check the path\.$"):
        load_initial_weights(support.random_model(), str(tmp_path / "none.pth"))
    save_model(tmp_path / "digits.safetensors", support.random_model())
    with pytest.raises(CheckpointError, match=r"none\.pth, found .*Check the path, or give checkpoint:digits\.$"):
        load_initial_weights(support.random_model(), str(tmp_path / "none.pth"))


def test_other_suffix_is_an_error(tmp_path: Path) -> None:
    """The suffix decides the format, and there are three."""
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"expected weights as \.safetensors, \.pth or \.pt, found .*x\.onnx"):
        load_initial_weights(support.random_model(), str(tmp_path / "x.onnx"))


def test_shipped_checkpoint_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`checkpoint:NAME` is the file `checkpoints/NAME.safetensors`."""
    monkeypatch.setattr("headwise_exporter.model.shipped.SHIPPED_FOLDER", tmp_path)
    shipped, model = support.random_model(seed=1), support.random_model(seed=2)
    save_model(tmp_path / "digits.safetensors", shipped)
    report = load_initial_weights(model, "checkpoint:digits")
    assert untouched(model, copied(shipped))
    assert report.describe().startswith("initial weights from checkpoint:digits: ")


@pytest.mark.parametrize("name", ["cifar", "", "../b", "a.safetensors"])
def test_unknown_shipped_checkpoint_lists_those_there_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another name, or one that leaves the folder, is an error with the names that would do."""
    monkeypatch.setattr("headwise_exporter.model.shipped.SHIPPED_FOLDER", tmp_path / "checkpoints")
    for path in ("checkpoints/b.safetensors", "checkpoints/a.safetensors", "checkpoints/README.md", "b.safetensors"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    assert list(shipped_checkpoints()) == ["a", "b"]
    with pytest.raises(CheckpointError, match=re.escape(f"found {name!r}. There are: a, b. Choose one of them")):
        shipped_checkpoint(name)


def test_installation_without_shipped_checkpoints_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel brings none; the error says where they are."""
    monkeypatch.setattr("headwise_exporter.model.shipped.SHIPPED_FOLDER", tmp_path / "none")
    assert shipped_checkpoints() == {}
    with pytest.raises(CheckpointError, match=r"There are none in .*they come with the source tree alone"):
        load_initial_weights(support.random_model(), "checkpoint:digits")


def test_shipped_folder_is_at_the_top_of_the_source_tree() -> None:
    """Beside the package, wherever the program is started."""
    assert Path(__file__).parents[3] / "checkpoints" == SHIPPED_FOLDER
