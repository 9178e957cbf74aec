"""Weights that come with the source tree, and the names to ask for them by; imports no torch."""

from pathlib import Path

SHIPPED_PREFIX = "checkpoint:"
SHIPPED_FOLDER = Path(__file__).resolve().parents[3] / "checkpoints"  # of the source tree; not in a wheel


def shipped_checkpoints() -> dict[str, Path]:
    """Files of weights that came with the source tree, by name; none where the package was installed without it."""
    return {path.stem: path for path in sorted(SHIPPED_FOLDER.glob("*.safetensors"))}
