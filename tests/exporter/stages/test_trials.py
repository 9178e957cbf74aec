"""Candidates of a pruning that is under way, kept in the run's folder."""

from pathlib import Path

import support
from headwise_exporter.pruning.compaction import KeptUnits, largest_difference
from headwise_exporter.pruning.removal import Candidate
from headwise_exporter.stages.trials import load_trials, remove_trials, save_trial


def candidate(seed: int) -> Candidate:
    """A random one, with an encoder that lost its heads."""
    model = support.random_model(support.emptied(support.small_config()), seed=seed)
    return Candidate("taylor", KeptUnits.all(model.config), model, 0.25 * seed, 1.5)


def test_candidates_come_back_in_order_as_they_were(tmp_path: Path) -> None:
    """Weights, shape, what is kept and the figures."""
    saved = [candidate(1), candidate(2)]
    for number, one in enumerate(saved):
        save_trial(tmp_path, "same", number, one)
    for one, back in zip(saved, load_trials(tmp_path, "same"), strict=True):
        assert largest_difference(one.model, back.model) == 0.0
        assert (one.criterion, one.kept, one.validation_accuracy) == (
            back.criterion,
            back.kept,
            back.validation_accuracy,
        )


def test_candidates_of_other_settings_are_not_taken(tmp_path: Path) -> None:
    """Nor any after a file that is damaged, and none when they are removed."""
    for number in range(3):
        save_trial(tmp_path, "same", number, candidate(number))
    assert load_trials(tmp_path, "other") == []
    (tmp_path / "pruning.resume" / "1.safetensors").write_bytes(b"cut")
    assert len(load_trials(tmp_path, "same")) == 1
    remove_trials(tmp_path)
    remove_trials(tmp_path)
    assert load_trials(tmp_path, "same") == []
