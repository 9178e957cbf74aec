"""Tensors, and the models that they are the weights of, as safetensors files with JSON in the file's metadata.

A model file holds the state dict under the reference implementation's names, and the `CCTConfig` as metadata. The same
values give the same bytes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from headwise_exporter.errors import ExporterError
from headwise_exporter.files import atomic_write
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.config import CCTConfig

METADATA = "headwise"  # key of the JSON in the file's metadata


class CheckpointError(ExporterError):
    """A file of tensors is missing, damaged or of another kind."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], kind: str, **metadata: Any) -> None:
    """Write tensors and what is known of them, whole or not at all.

    Args:
        kind: of file, which `load_tensors` asks for.
        metadata: what JSON can say.

    Raises:
        OutputError: the system refused the write.
    """
    # One key alone: the library writes several in an order that changes from run to run.
    described = {METADATA: json.dumps({"kind": kind, **metadata})}
    # Not written by the library: what it raises on a full disk is no OSError.
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, described)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def load_metadata(path: Path, kind: str | None) -> dict[str, Any]:
    """What a file of tensors says of itself; the tensors are not read.

    Args:
        kind: of file that is expected; None for any file of tensors, also of others, which says nothing.

    Raises:
        CheckpointError: no file, a damaged file, or one of another kind.
    """
    what = kind or "tensors"
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, Any] = json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except FileNotFoundError:
        raise CheckpointError(f"expected {what} at {path}, found no such file. Run the stage that makes it.") from None
    except (SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"expected {what} at {path}, found a damaged file: {error}. Make it again.") from error
    if kind is not None and metadata.get("kind") != kind:
        raise CheckpointError(f"expected {kind} at {path}, found {metadata.get('kind', 'something else')}.")
    return metadata


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: tensors and metadata.

    Raises:
        CheckpointError: no file, a damaged file, or one of another kind.
    """
    metadata = load_metadata(path, kind)
    return load_file(path), metadata


def save_model(path: Path, model: CCT) -> None:
    """Write weights and configuration, whole or not at all.

    Raises:
        OutputError: the system refused the write.
    """
    save_tensors(path, model.state_dict(), "model", config=model.config.to_dict())


def load_model(path: Path) -> CCT:
    """Read what `save_model` wrote; in evaluation mode.

    Raises:
        CheckpointError: no file, a damaged file, or weights that do not fit the configuration.
    """
    tensors, metadata = load_tensors(path, "model")
    model = CCT(_config(metadata, path))
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {path} do not fit its configuration: {error}") from error
    return model.eval()


def model_config(path: Path) -> CCTConfig:
    """The configuration of a model that `save_model` wrote; its weights are not read.

    Raises:
        CheckpointError: no file, a damaged file, or one of another kind.
    """
    return _config(load_metadata(path, "model"), path)


def _config(metadata: Mapping[str, Any], path: Path) -> CCTConfig:
    try:
        return CCTConfig.from_dict(metadata["config"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"expected the configuration of a model in {path}, found another release's. Train it again."
        ) from error
