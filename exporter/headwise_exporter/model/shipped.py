"""Trained models that come with the package, in `headwise_exporter/checkpoints/`, by name; imports no torch."""

from pathlib import Path

PREFIX = "checkpoint:"  # before a name, where a path could stand
RANDOM = "none"  # asks for no weights to start from
SHIPPED_FOLDER = Path(__file__).parents[1] / "checkpoints"


def shipped_checkpoints() -> dict[str, Path]:
    """Files of weights that came with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED_FOLDER.glob("*.safetensors"))}
