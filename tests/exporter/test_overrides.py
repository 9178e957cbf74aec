"""Settings changed by name."""

from dataclasses import replace
from itertools import permutations

import pytest
from headwise_exporter.overrides import SettingError, override
from headwise_exporter.recipes import RECIPES


def test_any_setting_can_be_changed() -> None:
    """At any depth, as numbers, words, booleans, tuples and null; all other settings stay."""
    recipe = RECIPES["cifar100_cpu"]()
    changed = override(
        recipe,
        [
            "training.epochs=5",
            "training.bf16=true",
            "training.optimizer=adamw",
            "training.augmentation.flip=0.25",
            "model.conv_hidden_channels=[32,64]",
            "prune.budget.heads=0.5",
            "protocol=null",
        ],
    )
    assert changed.training.epochs == 5
    assert changed.training.bf16 is True
    assert (changed.training.optimizer, changed.training.augmentation.flip) == ("adamw", 0.25)
    assert (changed.model.conv_hidden_channels, changed.prune.budget.heads) == ((32, 64), 0.5)
    assert replace(changed, model=recipe.model, training=recipe.training, prune=recipe.prune) == recipe


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.epochs", "expected NAME=VALUE, found 'training.epochs'"),
        ("epoch=3", r"unknown setting epoch; expected one of: dataset, model, training"),
        ("training.epoch=3", "unknown setting training.epoch; expected one of: epochs, batch_size"),
        ("training=3", "training has settings of its own: epochs"),
        ("training.epochs.x=3", "epochs has no settings of its own"),
        ("training.epochs=many", "training.epochs=many: Input should be a valid integer"),
        ("training.patience_epochs=-1", "expected patience_epochs of 0 or more, found -1"),
        ("training.optimizer=sgd", "Input should be 'adamw' or 'muon'"),
        ("prune.budget.heads=2", r"expected a kept share in \(0, 1\] for heads, found 2"),
    ],
)
def test_wrong_setting_says_what_is_expected(assignment: str, message: str) -> None:
    """The message has the setting's name, and the names or values that it may have."""
    with pytest.raises(SettingError, match=message):
        override(RECIPES["digits"](), [assignment])


@pytest.mark.parametrize("asked", list(permutations(["prune.max_drop_points=100", "prune.search.speedup=5"])))
def test_settings_are_checked_together(asked: tuple[str, ...]) -> None:
    """Two that are only valid together are taken in either order."""
    prune = override(RECIPES["digits"](), asked).prune
    assert (prune.max_drop_points, prune.search.speedup) == (100, 5)


def test_settings_that_contradict_each_other_are_all_named() -> None:
    """And what is wrong with them together."""
    asked = ["prune.search.speedup=3", "prune.search.macs=0.5"]
    with pytest.raises(SettingError, match=r"search.speedup=3, prune.search.macs=0.5: expected a speedup or a share"):
        override(RECIPES["digits"](), asked)


def test_later_of_two_values_counts() -> None:
    """So that --set has the last word over an option of its own."""
    assert override(RECIPES["digits"](), ["training.epochs=3", "training.epochs=4"]).training.epochs == 4
