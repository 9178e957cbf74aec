"""Candidates of a pruning that is under way, in the run's folder: an interrupted one goes on with the next.

Each is a file of its weights, with its shape, what it keeps and how it does in the metadata.
"""

import shutil
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import CheckpointError, load_tensors, save_tensors
from headwise_exporter.model.config import CCTConfig
from headwise_exporter.pruning.compaction import KeptUnits
from headwise_exporter.pruning.removal import Candidate

FOLDER = "pruning.resume"
KIND = "candidate"


def _path(run: Path, number: int) -> Path:
    return run / FOLDER / f"{number}.safetensors"


def save_trial(run: Path, identity: str, number: int, candidate: Candidate) -> None:
    """Write a candidate.

    Args:
        identity: of the settings and the dense model; others do not go on from here.

    Raises:
        OutputError: the system refused the write.
    """
    _path(run, number).parent.mkdir(exist_ok=True)
    save_tensors(
        _path(run, number),
        candidate.model.state_dict(),
        KIND,
        identity=identity,
        config=candidate.model.config.to_dict(),
        kept=asdict(candidate.kept),
        criterion=candidate.criterion,
        validation_accuracy=candidate.validation_accuracy,
        validation_loss=candidate.validation_loss,
    )


def load_trials(run: Path, identity: str) -> list[Candidate]:
    """The candidates of an interrupted pruning, in order; none of one of another identity, nor after a damaged file."""
    candidates: list[Candidate] = []
    while (path := _path(run, len(candidates))).is_file():
        try:
            tensors, metadata = load_tensors(path, KIND)
        except CheckpointError:
            break
        if metadata["identity"] != identity:
            break
        model = CCT(CCTConfig.from_dict(metadata["config"]))
        model.load_state_dict(tensors)
        kept = TypeAdapter(KeptUnits).validate_python(metadata["kept"])
        figures = (metadata["validation_accuracy"], metadata["validation_loss"])
        candidates.append(Candidate(metadata["criterion"], kept, model.eval(), *figures))
    return candidates


def remove_trials(run: Path) -> None:
    """Delete them, when the pruning is done."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)
