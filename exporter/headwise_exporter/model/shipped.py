"""Trained models that come with the package, in `headwise_exporter/checkpoints/`: by name, and by what they fit."""

from pathlib import Path

from headwise_exporter.model.architecture import architecture, differences
from headwise_exporter.model.cct import CCTConfig
from headwise_exporter.model.checkpoints import CheckpointError, model_config

PREFIX = "checkpoint:"
SHIPPED_FOLDER = Path(__file__).parents[1] / "checkpoints"


def shipped_checkpoints() -> dict[str, Path]:
    """Files of weights that came with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED_FOLDER.glob("*.safetensors"))}


def shipped_checkpoint(name: str) -> Path:
    """The file of a shipped checkpoint.

    Raises:
        CheckpointError: none of this name; the names that are there are listed.
    """
    known = shipped_checkpoints()
    if name not in known:
        raise CheckpointError(
            f"expected the name of a shipped checkpoint ({', '.join(known) or 'there is none'}), found {name!r}. "
            "Choose one of them, or give the path of a file."
        )
    return known[name]


def fitting_checkpoints(config: CCTConfig) -> list[str]:
    """Names, as `--init` takes them, of the shipped checkpoints that such a model can start from."""
    own = architecture(config)
    return [
        f"{PREFIX}{name}"
        for name, path in shipped_checkpoints().items()
        if not differences(own, architecture(model_config(path)))
    ]
