"""Candidates of a run's prunings, in its folder: neither an interrupted pruning nor one that goes further, or less far,
makes them again.

Each is a file of its weights, with its shape, its steps, what it keeps and how it does in the metadata.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headwise.bundle import file_sha256
from pydantic import TypeAdapter

from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import CheckpointError, load_metadata, load_tensors, save_tensors
from headwise_exporter.model.config import CCTConfig
from headwise_exporter.pruning.compaction import KeptUnits
from headwise_exporter.pruning.removal import Candidate
from headwise_exporter.pruning.settings import PruneSettings
from headwise_exporter.stages.run import DENSE, pruning_record
from headwise_exporter.stages.stage import plain

FOLDER = "candidates"
KIND = "candidate"


def trials_identity(settings: PruneSettings, **others: Any) -> dict[str, Any]:
    """Of everything that a candidate of the same steps depends on: not how far a search goes, nor what passes."""
    pruning = asdict(settings)
    del pruning["max_drop_points"]
    for name in ("speedup", "macs", "rounds"):
        del pruning["search"][name]
    return plain({"prune": pruning, **others})


def save_trial(run: Path, identity: dict[str, Any], candidate: Candidate) -> None:
    """Write a candidate.

    Args:
        identity: `trials_identity`; prunings of another do not take it, and write over it.

    Raises:
        OutputError: the system refused the write.
    """
    (run / FOLDER).mkdir(exist_ok=True)
    name = hashlib.sha256(json.dumps(candidate.steps).encode()).hexdigest()[:16]
    save_tensors(
        run / FOLDER / f"{name}.safetensors",
        candidate.model.state_dict(),
        KIND,
        identity=identity,
        steps=candidate.steps,
        config=candidate.model.config.to_dict(),
        kept=asdict(candidate.kept),
        criterion=candidate.criterion,
        validation_accuracy=candidate.validation_accuracy,
        validation_loss=candidate.validation_loss,
    )


def _of(run: Path, identity: dict[str, Any]) -> Iterator[tuple[Path, bool]]:
    """Every file, and whether it is a candidate of that identity; damaged ones are not."""
    for path in sorted((run / FOLDER).glob("*.safetensors")):
        try:
            yield path, load_metadata(path, KIND).get("identity") == identity
        except CheckpointError:
            yield path, False


def load_trials(run: Path, identity: dict[str, Any]) -> list[Candidate]:
    """The candidates of that identity, those of the fewest steps first."""
    candidates = []
    for path in (path for path, fits in _of(run, identity) if fits):
        tensors, metadata = load_tensors(path, KIND)
        model = CCT(CCTConfig.from_dict(metadata["config"]))
        model.load_state_dict(tensors)
        kept = TypeAdapter(KeptUnits).validate_python(metadata["kept"])
        figures = (metadata["validation_accuracy"], metadata["validation_loss"])
        candidates.append(Candidate(metadata["criterion"], kept, model.eval(), *figures, tuple(metadata["steps"])))
    return sorted(candidates, key=lambda candidate: (len(candidate.steps), candidate.steps))


def trials_of(run: Path) -> list[Candidate]:
    """Those of the settings by which the run was last pruned, or would have been had it gone further.

    Raises:
        RunError: the run has no pruned model.
    """
    record = pruning_record(run)
    settings = TypeAdapter(PruneSettings).validate_python(record["prune"])
    others = {"probes": record["probes"], "training": record["training"], "dense": file_sha256(run / DENSE)}
    return load_trials(run, trials_identity(settings, **others))


def remove_other_trials(run: Path, identity: dict[str, Any]) -> None:
    """Delete those that no pruning takes any more."""
    for path in (path for path, fits in _of(run, identity) if not fits):
        path.unlink(missing_ok=True)
