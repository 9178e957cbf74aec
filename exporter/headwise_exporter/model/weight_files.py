"""State dicts of a model from the files that training scripts write.

Formats, told by their content, whatever the suffix: safetensors, with our metadata or without, and what `torch.save`
writes, as a zip archive or as the older stream of pickles.

A file may hold several state dicts, below keys and with wrappers before the names of tensors:
- timm writes "state_dict" and "state_dict_ema", torchvision "model" and "model_ema", others other keys;
- data-parallel training, `torch.compile`, `AveragedModel` and Lightning put `module.`, `_orig_mod.`, `model.` before
  every name, nested as they are used, and counters or other modules beside.
So no list of keys and prefixes is gone through: a place is a key with a prefix, and the place with the most names of
the model is taken. Of equal ones the averaged one is, then the one under "state_dict" or "model" (timm's order).

No pickle runs. What torch's restricted unpickler does not know is either a plain value of a training script's settings
(`PLAIN`), for which a stand-in is made that remembers nothing, or a reason to refuse the file.
"""

import io
import pickletools
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from headwise_exporter.model.checkpoints import CheckpointError, load_metadata, load_model
from headwise_exporter.model.config import CCTConfig

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
USUAL_KEYS = ("state_dict", "model")
AVERAGED = re.compile(r"(^|[._])(ema|averaged|swa)([._]|$)", re.IGNORECASE)
NESTING = 3  # mappings in mappings that are looked into

# Types of plain values by their full names, and those that are dicts. None is imported: a stand-in takes its place.
PLAIN = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|typing\.Any"
    r"|builtins\.(bool|complex|dict|float|frozenset|int|list|range|set|slice|str|tuple)"
    r"|datetime\.(date|datetime|time|timedelta|timezone)|decimal\.Decimal|uuid\.UUID"
    r"|pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path"
    r"|numpy\.(dtype|ndarray)|numpy\.dtypes\.\w+DType|numpy\.(_core|core)\.multiarray\.(scalar|_reconstruct)"
    r"|omegaconf\.(dictconfig\.DictConfig|listconfig\.ListConfig|base\.(Container)?Metadata|nodes\.\w+Node)"
    r"|torch\.torch_version\.TorchVersion"
)
PLAIN_DICTS = re.compile(
    r"collections\.defaultdict|(pytorch_lightning|lightning\.pytorch)\.utilities\.parsing\.AttributeDict"
    r"|(lightning|lightning_fabric)\.(fabric\.)?utilities\.data\.AttributeDict"
)


@dataclass(frozen=True)
class LoadedWeights:
    """Tensors by the model's names, and where in the file they lay."""

    tensors: dict[str, Tensor]
    config: CCTConfig | None = None  # only a file of ours has one
    key: str = ""  # "state_dict_ema", or with dots where mappings are nested
    prefix: str = ""  # before every name: "module."
    left_out: tuple[str, ...] = ()  # names that do not have the prefix, and counters


def few(names: Collection[str], shown: int = 3) -> str:
    """The first names, and how many more there are."""
    first = ", ".join(list(names)[:shown])
    return first if len(names) <= shown else f"{first} and {len(names) - shown} more"


def read_weights(path: Path, names: Collection[str]) -> LoadedWeights:
    """The weights in a file.

    Args:
        names: of the model's tensors.

    Raises:
        CheckpointError: a file that is damaged, of another format, or wants more than tensors and plain values; no
            tensors of such names in it; or several models.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"expected weights at {path}, which cannot be read: {error.strerror}.") from error
    if start[8:] != b"{":  # of safetensors' header
        return _chosen(_unpickled(path), path, names)
    metadata = load_metadata(path, None)
    if not metadata:
        return _chosen(load_file(path), path, names)
    # Making the file's model draws random numbers; what is trained afterwards must not depend on that.
    with torch.random.fork_rng(devices=[]):
        saved = load_model(path)
    return LoadedWeights(saved.state_dict(), saved.config)


class _StandIn:
    """In place of a plain value: made from anything, and it does nothing."""

    def __new__(cls, *_: Any) -> "_StandIn":
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass


class _StandInDict:
    """In place of a dict's subclass: a dict, the only mapping whose items torch reads."""

    def __new__(cls, *_: Any) -> dict[Any, Any]:  # type: ignore[misc] # torch calls it as the class's constructor
        return {}


def _stand_in(name: str) -> Callable[..., Any] | None:
    if PLAIN_DICTS.fullmatch(name):
        return _StandInDict
    return _StandIn if PLAIN.fullmatch(name) else None


def _unpickled(path: Path) -> Any:
    try:
        wanted = _unknown_globals(path)
    except Exception as error:  # a damaged file may raise almost anything
        raise CheckpointError(
            f"expected weights at {path}, found a damaged file, or one that neither safetensors nor torch.save wrote. "
            "Copy or download it again, or save the state dict: torch.save(model.state_dict(), path)."
        ) from error
    stand_ins = {name: _stand_in(name) for name in wanted}
    refused = sorted(name for name, stand_in in stand_ins.items() if stand_in is None)
    if refused:
        raise CheckpointError(
            f"expected tensors and plain values in {path}, found {few(refused, 5)}, which could run code: nothing was "
            "read. Save the state dict alone: torch.save(model.state_dict(), path)."
        )
    try:
        known: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
            (made, name) for name, made in stand_ins.items() if made
        ]
        with path.open("rb") as file, torch.serialization.safe_globals(known):  # given a path, torch goes by suffixes
            return torch.load(file, map_location="cpu", weights_only=True)
    # The text of the error is left out: it proposes to read the file unsafely.
    except Exception as error:
        raise CheckpointError(
            f"expected weights at {path}, found a damaged file. Copy or download it again."
        ) from error


def _unknown_globals(path: Path) -> list[str]:
    """Full names of what the file's pickle asks for and torch does not allow by itself; nothing of it runs."""
    if zipfile.is_zipfile(path):
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    with path.open("rb") as file:
        # The older format: four pickles, of which the last has the content; torch looks into archives alone.
        for _ in range(4):
            start = file.tell()
            for _ in pickletools.genops(file):
                pass
        length = file.tell() - start
        file.seek(start)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as written:
            written.writestr("archive/data.pkl", file.read(length))
            written.writestr("archive/version", "3\n")
    archive.seek(0)
    return torch.serialization.get_unsafe_globals_in_checkpoint(archive)


def _mappings(content: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping with named tensors, and the key that it lies below."""
    if not isinstance(content, Mapping) or depth > NESTING:
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    tensors = {name: value for name, value in named.items() if torch.is_tensor(value)}
    if tensors:
        yield key, tensors
    for name, value in named.items():
        yield from _mappings(value, f"{key}.{name}".lstrip("."), depth + 1)


def _unwrapped(segments: list[str]) -> str:
    return ".".join(segment for segment in segments if segment not in WRAPPERS)


def _places(tensors: Collection[str], names: Collection[str]) -> dict[str, int]:
    """Prefixes, and how many names of the model follow each."""
    counts: dict[str, int] = defaultdict(int)
    for name in tensors:
        segments = name.split(".")
        starts = (index for index in reversed(range(len(segments))) if _unwrapped(segments[index:]) in names)
        if (start := next(starts, None)) is not None:
            counts["".join(f"{segment}." for segment in segments[:start])] += 1
    return counts


def _chosen(content: Any, path: Path, names: Collection[str]) -> LoadedWeights:
    mappings = dict(_mappings(content))
    if not mappings:
        raise CheckpointError(
            f"expected a state dict at {path}, found something else. Save one: torch.save(model.state_dict(), path)."
        )
    places = {
        (key, prefix): count for key, tensors in mappings.items() for prefix, count in _places(tensors, names).items()
    }
    if not places:
        others = max(mappings.values(), key=len)
        raise CheckpointError(
            f"expected weights of a compact convolutional transformer at {path}, found those of another model "
            f"({few(others)}). Choose weights of this architecture."
        )
    most = [place for place, count in places.items() if count == max(places.values())]
    key, prefix = _preferred(most, path)
    inside = {name: tensor for name, tensor in mappings[key].items() if name.startswith(prefix)}
    # A single number under a name that the model does not have is a counter: how many weights were averaged.
    read = {_unwrapped(name.removeprefix(prefix).split(".")): tensor for name, tensor in inside.items()}
    kept = {name: tensor for name, tensor in read.items() if name in names or tensor.dim() > 0}
    left_out = [name for name in mappings[key] if name not in inside] + [name for name in read if name not in kept]
    return LoadedWeights(kept, None, key, prefix, tuple(left_out))


def _preferred(places: list[tuple[str, str]], path: Path) -> tuple[str, str]:
    places = [place for place in places if any(map(AVERAGED.search, place))] or places
    usual = ([place for place in places if place[0] == key] for key in USUAL_KEYS)
    places = next(filter(None, usual), places)
    if len(places) == 1:
        return places[0]
    shown = few([f'"{key}"' + (f" after {prefix!r}" if prefix else "") for key, prefix in places])
    raise CheckpointError(
        f"expected one model at {path}, found {len(places)} ({shown}). Save the state dict of the one that is meant: "
        "torch.save(model.state_dict(), path)."
    )
