"""What a server says of images.

Results are equal where all that was answered is, times aside. They show themselves: in a notebook as a page
(`pages`), as a figure (`figures`, with matplotlib), as plain values, and as a table of pandas.

Shape suffixes: K labels, J target labels, R heads of the dense model.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

SHOWN = 3  # labels in a short text


@dataclass(frozen=True)
class ServedModel:
    """Which files on which engine gave an answer."""

    name: str
    version: str
    sha256: str  # of the manifest, which names every other file's
    engine: str
    precision: str


@dataclass(frozen=True)
class Timings:
    """Where the server spent its time on a call."""

    queue_seconds: float
    inference_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class LabelScore:
    """One label of one image."""

    index: int
    label: str
    logit: float
    probability: float

    def __str__(self) -> str:
        return f"{self.label} {100 * self.probability:.1f} %"


@dataclass(frozen=True)
class HeadCard:
    """What one head recognises over the data set."""

    encoder: int
    head: int
    pruned: bool
    expert_labels: tuple[str, ...]
    sharpness: float
    null_sharpness_mean: float
    p_value: float
    images: int


def plain(value: Any) -> Any:
    """The value for JSON: arrays as lists, nan as null, names without their shape suffix."""
    if isinstance(value, dict):
        return {re.sub(r"_[A-Z]+$", "", key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if value != value else value  # nan alone differs from itself


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(_same(entry, other[key]) for key, entry in value.items())
    if isinstance(value, np.ndarray):
        return np.array_equal(value, other, equal_nan=True)
    return bool(value == other)


class _Result:
    """What both kinds of results have."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        compared = (entry.name for entry in fields(self) if entry.compare)  # type: ignore[arg-type]  # of dataclasses
        return all(_same(getattr(self, name), getattr(other, name)) for name in compared)

    __hash__ = None  # type: ignore[assignment]  # arrays have none


@dataclass(frozen=True, eq=False, repr=False)
class Classification(_Result):
    """The labels of one image."""

    logits_K: NDArray[np.float32]
    probabilities_K: NDArray[np.float32]
    top: tuple[LabelScore, ...]  # best first
    model: ServedModel
    timings: Timings = field(compare=False)

    def __repr__(self) -> str:
        return f"Classification({_first(self.top)}; {self.model.name} {self.model.version})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, as `headwise classify --json` prints them."""
        values: dict[str, Any] = plain(asdict(self))
        return values

    def to_pandas(self) -> "DataFrame":
        """A row for each label of `top`, best first.

        Raises:
            ImportError: pandas is not installed.
        """
        from pandas import DataFrame  # need not be installed

        return DataFrame([asdict(score) for score in self.top]).set_index("label")

    def plot(self) -> "Figure":
        """Bars of the first labels.

        Raises:
            ImportError: matplotlib is not installed: pip install 'headwise[plot]'.
        """
        from headwise import figures

        return figures.classification(self)

    def _repr_html_(self) -> str:
        from headwise import pages

        return pages.classification(self)


@dataclass(frozen=True)
class Part:
    """What one part of the model contributed to one target, in logits."""

    name: str
    kind: str  # "head", "feed-forward", "embedding" or "biases"
    contribution: float
    card: HeadCard | None = None  # of a head


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(_Result):
    """What each head, and each other part of the model, contributed to the logits of the target labels.

    `heads_RJ` summed over the heads, plus `other_parts` summed over its values, is the logit of each target, up to
    `completeness_residual`. A removed head contributes 0 and has fields of nan.
    """

    logits_K: NDArray[np.float32]
    probabilities_K: NDArray[np.float32]
    targets: tuple[LabelScore, ...]
    heads_RJ: NDArray[np.float32]
    head_fields_RK: NDArray[np.float32]  # through each head's SNP probe
    head_cards: tuple[HeadCard, ...]  # in the order of the heads
    other_parts: dict[str, NDArray[np.float32]]  # name to (J,)
    completeness_residual: float
    completeness_tolerance: float
    model: ServedModel
    timings: Timings = field(compare=False)

    def __repr__(self) -> str:
        return f"Explanation({_first(self.targets)}; {self.model.name} {self.model.version})"

    def parts(self, target: int = 0) -> list[Part]:
        """Every part that the model still has, the largest contribution to a target first; they add up to its logit."""
        heads = [
            Part(f"encoder {card.encoder} head {card.head}", "head", float(contribution), card)
            for card, contribution in zip(self.head_cards, self.heads_RJ[:, target], strict=True)
            if not card.pruned
        ]
        others = [Part(*_named(name), float(values_J[target])) for name, values_J in self.other_parts.items()]
        return sorted([*heads, *others], key=lambda part: -abs(part.contribution))

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, what is known of a head together, as `headwise explain --json` prints them."""
        values = asdict(self)
        columns = zip(values.pop("head_cards"), values.pop("heads_RJ"), values.pop("head_fields_RK"), strict=True)
        values["heads"] = [{**card, "contributions_J": row_J, "fields_K": row_K} for card, row_J, row_K in columns]
        named: dict[str, Any] = plain(values)
        return named

    def to_pandas(self) -> "DataFrame":
        """A row for each part and target: target, part, kind, encoder, head and contribution.

        Raises:
            ImportError: pandas is not installed.
        """
        from pandas import DataFrame  # need not be installed

        return DataFrame(list(self._rows()))

    def _rows(self) -> Iterator[dict[str, Any]]:
        for index, target in enumerate(self.targets):
            for part in self.parts(index):
                yield {
                    "target": target.label,
                    "part": part.name,
                    "kind": part.kind,
                    "encoder": part.card.encoder if part.card else None,
                    "head": part.card.head if part.card else None,
                    "contribution": part.contribution,
                }

    def plot(self, target: int = 0) -> "Figure":
        """Bars of the largest parts for one target, and the heads of every encoder as a grid.

        Raises:
            ImportError: matplotlib is not installed: pip install 'headwise[plot]'.
        """
        from headwise import figures

        return figures.explanation(self, target)

    def _repr_html_(self) -> str:
        from headwise import pages

        return pages.explanation(self)


def _first(scores: tuple[LabelScore, ...]) -> str:
    more = f", {len(scores) - SHOWN} more" if len(scores) > SHOWN else ""
    return ", ".join(map(str, scores[:SHOWN])) + more


def _named(part: str) -> tuple[str, str]:
    """Name in words, and kind, of a part that is no head."""
    if not part.startswith("encoders."):
        return part, part
    encoder = part.removeprefix("encoders.").partition(".")[0]
    return f"encoder {encoder} feed-forward", "feed-forward"
