"""Candidates of a run's prunings, kept in its folder."""

from dataclasses import replace
from pathlib import Path

import pytest
import support
from headwise_exporter.pruning.compaction import KeptUnits, largest_difference
from headwise_exporter.pruning.removal import Candidate
from headwise_exporter.pruning.settings import PruneSettings, SearchSettings
from headwise_exporter.stages.trials import (
    FOLDER,
    load_trials,
    remove_other_trials,
    save_trial,
    trials_identity,
    trials_of,
)

SAME, OTHER = {"of": "these"}, {"of": "others"}
SEARCH = PruneSettings(search=SearchSettings(speedup=3.0))


def candidate(steps: int) -> Candidate:
    """A random one, with an encoder that lost its heads."""
    model = support.random_model(support.emptied(support.small_config()), seed=steps)
    return Candidate("taylor", KeptUnits.all(model.config), model, 0.25 * steps, 1.5, ("a step",) * steps)


def test_candidates_come_back_in_order_as_they_were(tmp_path: Path) -> None:
    """Weights, shape, what is kept, steps and figures; those of the fewest steps first."""
    for one in (candidate(2), candidate(1)):
        save_trial(tmp_path, SAME, one)
    for one, back in zip((candidate(1), candidate(2)), load_trials(tmp_path, SAME), strict=True):
        assert largest_difference(one.model, back.model) == 0.0
        assert replace(one, model=back.model) == back


def test_candidates_of_other_settings_are_not_taken(tmp_path: Path) -> None:
    """Nor a damaged file; those of other settings go when they are removed, and the damaged one with them."""
    for steps in (1, 2, 3):
        save_trial(tmp_path, SAME, candidate(steps))
    assert load_trials(tmp_path, OTHER) == []
    damaged = next((tmp_path / FOLDER).iterdir())
    damaged.write_bytes(b"cut")
    assert len(load_trials(tmp_path, SAME)) == 2
    remove_other_trials(tmp_path, SAME)
    assert len(load_trials(tmp_path, SAME)) == len(list((tmp_path / FOLDER).iterdir())) == 2
    remove_other_trials(tmp_path, OTHER)
    assert list((tmp_path / FOLDER).iterdir()) == []


@pytest.mark.parametrize(
    "other",
    [
        replace(SEARCH, max_drop_points=1.0),
        replace(SEARCH, search=SearchSettings(macs=0.3)),
        replace(SEARCH, search=SearchSettings(speedup=3.0, rounds=2)),
    ],
)
def test_search_that_goes_further_has_the_same_candidates(other: PruneSettings) -> None:
    """What ends a search does not change what it passes on its way."""
    assert trials_identity(other, dense="a") == trials_identity(SEARCH, dense="a")


@pytest.mark.parametrize(
    "other", [replace(SEARCH, epochs=3), replace(SEARCH, search=SearchSettings(speedup=3.0, round=0.7))]
)
def test_search_that_trains_or_removes_otherwise_has_others(other: PruneSettings) -> None:
    """So has one of another dense model."""
    assert trials_identity(other, dense="a") != trials_identity(SEARCH, dense="a")
    assert trials_identity(SEARCH, dense="b") != trials_identity(SEARCH, dense="a")


def test_settings_that_were_recorded_are_those_that_were_given() -> None:
    """A whole number that came back as a fraction is the same number."""
    given, recorded = ({"warm_up_epochs": value, "layers": values} for value, values in ((1, (2, 3)), (1.0, [2, 3])))
    assert trials_identity(SEARCH, training=given) == trials_identity(SEARCH, training=recorded)


def test_candidates_of_a_finished_run_are_those_of_its_settings(run: Path) -> None:
    """As its record has them; other prunings' are not among them."""
    candidates = trials_of(run)
    assert len(candidates) == len(list((run / FOLDER).iterdir())) > 0
    save_trial(run, OTHER, candidate(1))
    assert [one.steps for one in trials_of(run)] == [one.steps for one in candidates]
