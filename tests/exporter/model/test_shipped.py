"""Trained models that come with the package."""

import re
from pathlib import Path

import pytest
import support
from headwise_exporter.model import shipped
from headwise_exporter.model.checkpoints import CheckpointError, save_model
from headwise_exporter.model.config import cct_7_3x1
from headwise_exporter.model.initial_weights import fitting_checkpoints, load_initial_weights, shipped_checkpoint
from headwise_exporter.model.shipped import shipped_checkpoints
from headwise_exporter.recipes import RECIPES


def test_shipped_checkpoint_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`checkpoint:NAME` is the file `NAME.safetensors` of the folder."""
    monkeypatch.setattr(shipped, "SHIPPED_FOLDER", tmp_path)
    model = support.random_model(seed=1)
    save_model(tmp_path / "digits.safetensors", model)
    report = load_initial_weights(support.random_model(seed=2), "checkpoint:digits")
    assert len(report.taken) == len(model.state_dict())
    assert report.describe().startswith("initial weights from checkpoint:digits: ")


@pytest.mark.parametrize("name", ["cifar", "", "../b", "a.safetensors"])
def test_unknown_shipped_checkpoint_lists_those_there_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another name, or one that leaves the folder, is an error with the names that would do."""
    monkeypatch.setattr(shipped, "SHIPPED_FOLDER", tmp_path / "checkpoints")
    for path in ("checkpoints/b.safetensors", "checkpoints/a.safetensors", "checkpoints/README.md", "b.safetensors"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    assert list(shipped_checkpoints()) == ["a", "b"]
    with pytest.raises(CheckpointError, match=re.escape(f"shipped checkpoint (a, b), found {name!r}. Choose one of")):
        shipped_checkpoint(name)


def test_fitting_checkpoints_have_the_architecture_whatever_the_images() -> None:
    """Image size and labels are of no matter; heads, which no shape shows, are."""
    model = RECIPES["folder"]().model
    photos = ["checkpoint:flowers102", "checkpoint:flowers102_taught"]
    assert fitting_checkpoints(model.config(64, 3, 5)) == photos
    assert fitting_checkpoints(model.config(128, 3, 102)) == photos
    assert fitting_checkpoints(model.config(64, 1, 5)) == []
    assert fitting_checkpoints(RECIPES["digits"]().model.config(8, 1, 10)) == ["checkpoint:digits"]
    assert fitting_checkpoints(cct_7_3x1()) == []


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_starts_from_a_checkpoint_that_fits_it(name: str) -> None:
    """A default that never fits would be none."""
    recipe = RECIPES[name]()
    assert recipe.start is None or recipe.start in fitting_checkpoints(recipe.model.config(64, 3, 5))
