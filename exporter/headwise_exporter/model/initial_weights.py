"""Training that starts from existing weights: our own files, and checkpoints of the reference implementation.

What fits by name and shape is taken. Two things may differ, because they belong to the images and not to what was
learnt about them:
- the number of tokens: positional embeddings are interpolated on the square grid of tokens (bicubic, antialiased);
- the number of labels: the classifier of the file is left out and the model keeps its own.
Anything else that differs is an error, and then the model is as it was.

The reference implementation (SHI-Labs/Compact-Transformers) has used one spelling of the names in every revision of
its source that was looked at, and no buffers. It publishes bare state dicts; its training script is that of timm.
`weight_files` has what files may look like. Sinusoidal embeddings are in the file under the name of the learnt ones:
they are taken, and learnt from there on.

The limit: a state dict does not say how its rows are shared out among heads, nor the stride and padding of the
convolutions. Of our own files they are compared; of a reference checkpoint they cannot be.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from headwise_exporter.model.architecture import architecture, differences, in_words, visible_architecture
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.checkpoints import CheckpointError, model_config
from headwise_exporter.model.config import CCTConfig
from headwise_exporter.model.shipped import PREFIX, shipped_checkpoints
from headwise_exporter.model.weight_files import LoadedWeights, few, read_weights

POSITIONS = "classifier.positional_emb"
CLASSIFIER_TENSORS = ("classifier.fc.weight", "classifier.fc.bias")


@dataclass(frozen=True)
class InitialWeights:
    """What a model took from a file, by the names of its state dict."""

    source: str  # what was asked for: a path, or `checkpoint:NAME`
    taken: tuple[str, ...]  # as they are, but for the dtype
    resized: Mapping[str, tuple[int, int]]  # tokens in the file, tokens in the model
    replaced: Mapping[str, tuple[int, int]]  # left as initialised: labels in the file, labels in the model
    key: str = ""  # under which the file has the state dict
    prefix: str = ""  # that its names have
    left_out: tuple[str, ...] = ()  # of the file, beside the model

    def describe(self) -> str:
        """One line for the console."""
        place = f', "{self.key}"' * bool(self.key) + f", names after {self.prefix!r}" * bool(self.prefix)
        parts = [f"{len(self.taken)} tensors as they are"]
        parts += [f"not of the model and left out: {few(self.left_out)}"] * bool(self.left_out)
        parts += [f"{name} resized from {loaded} to {own} tokens" for name, (loaded, own) in self.resized.items()]
        for loaded, own in set(self.replaced.values()):
            parts.append(f"{' and '.join(self.replaced)} left as initialised ({own} labels, {loaded} in the file)")
        return f"initial weights from {self.source}{place}: {'; '.join(parts)}"


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


def load_initial_weights(model: CCT, path_or_name: str) -> InitialWeights:
    """Copy weights into the model, cast to its dtypes; all that fits, or nothing.

    Args:
        model: changed in place, unless an error is raised; neither its mode nor the random state changes.
        path_or_name: a file as `weight_files.read_weights` takes it, or `checkpoint:NAME`, a shipped file.

    Raises:
        CheckpointError: no such file, one that cannot be read safely, or weights that do not fit; the latter has what
            differs, and the shipped checkpoints that fit.
    """
    own = model.state_dict()
    loaded = read_weights(weights_path(path_or_name), own)
    resized, replaced = _resized(own, loaded.tensors), _replaced(own, loaded.tensors)
    misfit = _misfit(model.config, own, loaded, allowed={*resized, *replaced})
    if misfit:
        fitting = fitting_checkpoints(model.config)
        verb = "fits" if len(fitting) == 1 else "fit"
        others = f"{', '.join(fitting)} {verb}" if fitting else "no shipped checkpoint fits"
        raise CheckpointError(f"{misfit} in {path_or_name}; {others}.")
    tensors = {name: tensor for name, tensor in loaded.tensors.items() if name not in replaced}
    tensors |= {name: resize_positions(tensors[name], tokens) for name, (_, tokens) in resized.items()}
    model.load_state_dict(own | tensors)
    taken = tuple(name for name in tensors if name not in resized)
    return InitialWeights(path_or_name, taken, resized, replaced, loaded.key, loaded.prefix, loaded.left_out)


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


def weights_path(path_or_name: str) -> Path:
    """The file that is meant: a path, or `checkpoint:NAME`.

    Raises:
        CheckpointError: there is no such file.
    """
    if path_or_name.startswith(PREFIX):
        return shipped_checkpoint(path_or_name.removeprefix(PREFIX))
    path = Path(path_or_name)
    if not path.is_file():
        names = ", ".join(f"{PREFIX}{name}" for name in shipped_checkpoints())
        others = f", or give {names}" if names else ""
        raise CheckpointError(f"expected weights at {path}, found no such file. Check the path{others}.")
    return path


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


def _misfit(config: CCTConfig, own: Mapping[str, Tensor], loaded: LoadedWeights, allowed: set[str]) -> str | None:
    """Why the weights do not fit: the settings that differ, or else the tensors."""
    theirs = architecture(loaded.config) if loaded.config else visible_architecture(loaded.tensors)
    if differing := differences(architecture(config), theirs):
        wanted, present = (in_words({name: pair[side] for name, pair in differing.items()}) for side in (0, 1))
        return f"expected weights of a model of {wanted}, found {present}"
    problems = _mismatches(own, loaded.tensors, allowed)
    return f"expected weights that fit the model, found others ({few(problems)})" if problems else None


def _mismatches(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor], allowed: set[str]) -> list[str]:
    problems = [f"{name} missing" for name in own if name not in loaded]
    problems += [f"{name} unexpected" for name in loaded if name not in own]
    for name in (name for name in own if name in loaded):
        shape, own_shape = tuple(loaded[name].shape), tuple(own[name].shape)
        if shape != own_shape and name not in allowed:
            grids = ", and only square numbers of tokens can be resized" if name == POSITIONS else ""
            problems.append(f"{name} of shape {shape} instead of {own_shape}{grids}")
        elif not loaded[name].is_floating_point() or not loaded[name].isfinite().all():
            problems.append(f"{name} without finite floating-point values ({loaded[name].dtype})")
    return problems
