"""What a run's folder contains."""

from pathlib import Path

import pytest
import support
from headwise_exporter.stages.run import (
    RunError,
    pruning_provenance,
    trained_dataset,
    trained_recipe,
    training_record,
)


def test_run_remembers_its_data_set_and_settings(built: Path) -> None:
    """A stage alone needs the run's folder and nothing else."""
    record = training_record(built / "run")
    assert (record["dataset"]["name"], record["recipe"]["training"]["epochs"]) == ("digits", 3)
    assert trained_recipe(built / "run") == support.small_recipe()
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2, 3]
    assert trained_dataset(built / "run").name == "digits"


def test_pruning_is_remembered(built: Path) -> None:
    """Provenance and kept units come back from the file."""
    provenance, kept = pruning_provenance(built / "run")
    assert (provenance.layers, provenance.mask_by, provenance.criterion) == ("both", "andc", "variance*snp")
    assert [len(units.heads) for units in kept.encoders] == [3, 3]


def test_stage_before_its_inputs_says_which_command_makes_them(tmp_path: Path) -> None:
    """An empty run names the stage to run first."""
    with pytest.raises(RunError, match=r"has no trained model: expected training.json. Run `exporter train` first"):
        training_record(tmp_path)
    with pytest.raises(RunError, match=r"has no pruned model: expected pruning.json. Run `exporter prune` first"):
        pruning_provenance(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    """A record that is cut off or no text names its file and the command that makes it."""
    (tmp_path / "training.json").write_bytes(content)
    with pytest.raises(RunError, match=r"expected JSON in .*training.json, found a damaged file.*`exporter train`"):
        training_record(tmp_path)
