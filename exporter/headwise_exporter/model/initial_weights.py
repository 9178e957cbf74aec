"""Training that starts from existing weights: our own files, and checkpoints of the reference implementation.

What fits by name and shape is taken. Two things may differ, because they belong to the images and not to what was
learnt about them:
- the number of tokens: positional embeddings are interpolated on the square grid of tokens (bicubic, antialiased);
- the number of labels: the classifier of the file is left out and the model keeps its own.
Anything else that differs is an error, and then the model is as it was.

The reference implementation (SHI-Labs/Compact-Transformers) has used one spelling of the names in every revision of
its source that was looked at, and no buffers. It publishes bare state dicts; its training script, which is that of
timm, writes the state dict under "state_dict" beside the settings, an `argparse.Namespace`. Sinusoidal embeddings are
in the file under the name of the learnt ones: they are taken, and learnt from there on.

The limit: a state dict does not say how its rows are shared out among heads, nor the stride and padding of the
convolutions. Of our own files they are compared; of a reference checkpoint they cannot be.
"""

import math
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from headwise_exporter.model import shipped
from headwise_exporter.model.cct import CCT, CCTConfig
from headwise_exporter.model.checkpoints import CheckpointError, load_model
from headwise_exporter.model.shipped import SHIPPED_PREFIX, shipped_checkpoints

POSITIONS = "classifier.positional_emb"
UNSEEN_SETTINGS = ("query_key_scale", "conv_stride", "conv_padding")  # in no tensor's shape
CLASSIFIER_TENSORS = ("classifier.fc.weight", "classifier.fc.bias")


@dataclass(frozen=True)
class InitialWeights:
    """What a model took from a file, by the names of its state dict."""

    source: str  # what was asked for: a path, or `checkpoint:NAME`
    taken: tuple[str, ...]  # as they are, but for the dtype
    resized: Mapping[str, tuple[int, int]]  # tokens in the file, tokens in the model
    replaced: Mapping[str, tuple[int, int]]  # left as initialised: labels in the file, labels in the model

    def describe(self) -> str:
        """One line for the console."""
        parts = [f"{len(self.taken)} tensors as they are"]
        parts += [f"{name} resized from {loaded} to {own} tokens" for name, (loaded, own) in self.resized.items()]
        for loaded, own in set(self.replaced.values()):
            parts.append(f"{' and '.join(self.replaced)} left as initialised ({own} labels, {loaded} in the file)")
        return f"initial weights from {self.source}: {'; '.join(parts)}"


def shipped_checkpoint(name: str) -> Path:
    """The file of a shipped checkpoint.

    Raises:
        CheckpointError: none of this name; the names that are there are listed.
    """
    known = shipped_checkpoints()
    if name in known:
        return known[name]
    there = (
        f"There are: {', '.join(known)}. Choose one of them"
        if known
        else f"There are none in {shipped.SHIPPED_FOLDER}: they come with the source tree alone. Run from there"
    )
    raise CheckpointError(
        f"expected the name of a shipped checkpoint, found {name!r}. {there}, or give the path of a file."
    )


def load_initial_weights(model: CCT, path_or_name: str) -> InitialWeights:
    """Copy weights into the model, cast to its dtypes; all that fits, or nothing.

    Args:
        model: changed in place, unless an error is raised; neither its mode nor the random state changes.
        path_or_name: a `.safetensors` that `save_model` wrote, in any floating dtype; a `.pth` or `.pt` with a state
            dict of the reference implementation, bare or under "state_dict" or "model", its names with or without
            "module."; or `checkpoint:NAME`, a shipped file.

    Raises:
        CheckpointError: no such file, one that cannot be read safely, or weights that do not fit; the latter lists
            every mismatch by name.
    """
    loaded = _read(weights_path(path_or_name))
    own = model.state_dict()
    resized, replaced = _resized(own, loaded.tensors), _replaced(own, loaded.tensors)
    problems = _mismatches(own, loaded.tensors, allowed={*resized, *replaced})
    problems += _other_settings(model.config, loaded.config) if loaded.config else []
    if problems:
        raise CheckpointError(
            f"expected weights that fit the model, found in {path_or_name}:\n  "
            + "\n  ".join(problems)
            + "\nChoose weights of this architecture, or the architecture of these weights."
        )
    tensors = {name: tensor for name, tensor in loaded.tensors.items() if name not in replaced}
    tensors |= {name: resize_positions(tensors[name], tokens) for name, (_, tokens) in resized.items()}
    model.load_state_dict(own | tensors)
    return InitialWeights(path_or_name, tuple(name for name in tensors if name not in resized), resized, replaced)


def resize_positions(positions_1TD: Tensor, tokens: int) -> Tensor:
    """Positional embeddings (1, T, D) of another square grid, (1, `tokens`, D); the same if the number is the same.

    Raises:
        ValueError: one of the numbers of tokens is not a square.
    """
    own = positions_1TD.shape[1]
    if own == tokens:
        return positions_1TD
    if not (_is_square(own) and _is_square(tokens)):
        raise ValueError(f"expected square grids of tokens, found {own} to be resized to {tokens}")
    side, new_side = math.isqrt(own), math.isqrt(tokens)
    # In double, as not every dtype can be interpolated. Antialiased, so that no token is passed over in shrinking.
    grid_1DYX = positions_1TD.double().transpose(1, 2).unflatten(2, (side, side))
    grid_1DYX = functional.interpolate(grid_1DYX, (new_side, new_side), mode="bicubic", antialias=True)
    return grid_1DYX.flatten(2).transpose(1, 2).to(positions_1TD.dtype)


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


@dataclass(frozen=True)
class _Found:
    tensors: dict[str, Tensor]
    config: CCTConfig | None  # a reference checkpoint has none


def weights_path(path_or_name: str) -> Path:
    """The file that is meant: a path, or `checkpoint:NAME`.

    Raises:
        CheckpointError: there is no such file.
    """
    if path_or_name.startswith(SHIPPED_PREFIX):
        return shipped_checkpoint(path_or_name.removeprefix(SHIPPED_PREFIX))
    path = Path(path_or_name)
    if not path.is_file():
        names = ", ".join(f"{SHIPPED_PREFIX}{name}" for name in shipped_checkpoints())
        others = f", or give {names}" if names else ""
        raise CheckpointError(f"expected weights at {path}, found no such file. Check the path{others}.")
    return path


def _read(path: Path) -> _Found:
    if path.suffix == ".safetensors":
        # Making the file's model draws random numbers; what is trained afterwards must not depend on that.
        with torch.random.fork_rng(devices=[]):
            saved = load_model(path)
        return _Found(saved.state_dict(), saved.config)
    if path.suffix in (".pth", ".pt"):
        return _Found(_state_dict(_unpickled(path), path), None)
    raise CheckpointError(
        f"expected weights as .safetensors, .pth or .pt, found {path}. Give the file the suffix of its format."
    )


def _unpickled(path: Path) -> Any:
    try:
        # The settings that timm's training script writes beside the weights: plain values that run nothing.
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    # A damaged pickle may raise almost anything. The text of the error is left out: it proposes to read it unsafely.
    except Exception as error:
        raise CheckpointError(
            f"expected weights at {path}, found a damaged file or one with more than tensors and plain values, which "
            "could run code and is not read. Save the state dict alone: torch.save(model.state_dict(), path)."
        ) from error


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(map(torch.is_tensor, content.values())):
        raise CheckpointError(
            f'expected a state dict at {path}, bare or under "state_dict" or "model", found something else. '
            "Save one: torch.save(model.state_dict(), path)."
        )
    # What torch's data-parallel wrapper puts before every name.
    prefix = "module." if all(str(name).startswith("module.") for name in content) else ""
    return {str(name).removeprefix(prefix): tensor for name, tensor in content.items()}


def _resized(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """The positional embeddings, if only their number differs and both are squares."""
    if POSITIONS not in loaded or loaded[POSITIONS].dim() != 3:
        return {}
    (batch, tokens, width), (own_batch, own_tokens, own_width) = loaded[POSITIONS].shape, own[POSITIONS].shape
    fits = (batch, width) == (own_batch, own_width) and _is_square(tokens) and _is_square(own_tokens)
    return {POSITIONS: (tokens, own_tokens)} if fits and tokens != own_tokens else {}


def _replaced(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """The classifier, weight and bias together, if it is whole and for another number of labels."""
    if any(name not in loaded or loaded[name].dim() == 0 for name in CLASSIFIER_TENSORS):
        return {}
    labels, own_labels = len(loaded[CLASSIFIER_TENSORS[0]]), len(own[CLASSIFIER_TENSORS[0]])
    whole = all(loaded[name].shape == (labels, *own[name].shape[1:]) for name in CLASSIFIER_TENSORS)
    return dict.fromkeys(CLASSIFIER_TENSORS, (labels, own_labels)) if whole and labels != own_labels else {}


def _mismatches(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor], allowed: set[str]) -> list[str]:
    problems = [f"{name}: missing" for name in own if name not in loaded]
    problems += [f"{name}: unexpected" for name in loaded if name not in own]
    for name in (name for name in own if name in loaded):
        shape, own_shape = tuple(loaded[name].shape), tuple(own[name].shape)
        if shape != own_shape and name not in allowed:
            grids = " (only square numbers of tokens can be resized)" if name == POSITIONS else ""
            problems.append(f"{name}: expected {own_shape}, found {shape}{grids}")
        elif not loaded[name].is_floating_point() or not loaded[name].isfinite().all():
            problems.append(f"{name}: expected finite floating-point values, found others ({loaded[name].dtype})")
    return problems


def _other_settings(own: CCTConfig, loaded: CCTConfig) -> list[str]:
    """What the shapes of the tensors do not show, and what would make another function of them."""
    pairs = {name: (getattr(own, name), getattr(loaded, name)) for name in UNSEEN_SETTINGS}
    pairs["heads"] = (tuple(e.heads for e in own.encoders), tuple(e.heads for e in loaded.encoders))
    return [f"{name}: expected {ours}, found {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs]
