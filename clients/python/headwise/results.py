"""What a server says of images.

Results are equal where all that was answered is, times aside. They show themselves: in a notebook as a page
(`pages`), as a figure (`figures`, with matplotlib), as plain values, and as a table of pandas.

Shape suffixes: K labels, J target labels, R heads of the dense model, Y rows and X columns of the token grid.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

SHOWN = 3  # labels in a short text
HEAD_FIELDS = {  # of an explanation, by what they are called in the plain values of a head
    "contributions_J": "heads_RJ",
    "fields_K": "head_fields_RK",
    "mean_contribution": "mean_heads_R",
    "maps_JYX": "head_maps_RJYX",
    "effects_J": "head_effects_RJ",
}


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
    picture: str = field(default="", compare=False)  # that was sent, as a data URI; empty where browsers show none such

    def __repr__(self) -> str:
        return f"Classification({_first(self.top)}; {self.model.name} {self.model.version})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, as `headwise classify --json` prints them."""
        values: dict[str, Any] = plain(asdict(replace(self, picture="")))
        del values["picture"]
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
class TokenGrid:
    """Where the tokens of maps lie, in pixels of the image that the model takes."""

    rows: int
    columns: int
    stride_pixels: int  # from a token to the next
    receptive_field_pixels: int  # side of the square that a token sees before encoders mix the tokens
    first_center_pixels: float  # of the first token's square, from the upper left corner


@dataclass(frozen=True)
class Part:
    """What one part of the model contributed to one target, or to one rather than another, in logits."""

    name: str
    kind: str  # "head", "feed-forward", "embedding" or "biases"
    contribution: float
    # The contribution less its mean over all labels: what all labels get alike decides nothing. nan of older servers.
    above_mean: float = math.nan
    # Of the logit above the mean of all logits, to which the parts' `above_mean` add up; nan where that is negative.
    share: float = math.nan
    card: HeadCard | None = None  # of a head
    effect: float = math.nan  # fall of the logit when the head alone is removed, where `causal` was asked for
    map_YX: NDArray[np.float32] | None = field(default=None, compare=False)  # adds up to the contribution

    @property
    def weight(self) -> float:
        """By what it is large or small: `above_mean`, or the contribution where that is not known."""
        return self.contribution if math.isnan(self.above_mean) else self.above_mean


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(_Result):
    """What each head, and each other part of the model, contributed to the logits of the target labels.

    `heads_RJ` summed over the heads, plus `other_parts` summed over its values, is the logit of each target, up to
    `completeness_residual`. A removed head contributes 0 and has fields and effects of nan.

    A map splits a contribution over the tokens that the part read, and adds up to it. It is an account of the sum, not
    "the region that matters": tokens of later encoders have been mixed with others.
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
    mean_heads_R: NDArray[np.float32]  # each contribution's mean over all labels; nan of older servers
    mean_other_parts: dict[str, float]
    # Where they were asked for:
    token_grid: TokenGrid | None = None
    head_maps_RJYX: NDArray[np.float32] | None = None
    other_maps: dict[str, NDArray[np.float32]] | None = None  # name to (J, Y, X); "biases" reads no token and has none
    head_effects_RJ: NDArray[np.float32] | None = None  # fall of each target's logit when that head alone is removed
    effect_correlations_J: NDArray[np.float32] | None = None  # rank correlation of contributions with effects
    silenced_logits_K: NDArray[np.float32] | None = None  # with all heads silent that were asked for
    picture: str = field(default="", compare=False)  # as of a classification

    def __repr__(self) -> str:
        return f"Explanation({_first(self.targets)}; {self.model.name} {self.model.version})"

    def parts(self, target: int = 0) -> list[Part]:
        """Every part that the model still has, the largest for or against a target first.

        They add up to its logit, and by `above_mean` to its logit above the mean of all labels' logits.
        """
        weights_J = np.zeros(len(self.targets))
        weights_J[target] = 1
        return self._combined(weights_J, self.targets[target].logit - float(self.logits_K.mean()), means=1)

    def contrast(self, target: int = 0, against: int = 1) -> list[Part]:
        """Why one target rather than another: each part's contribution to the one less that to the other.

        They add up to the difference of the two logits. What is left of the means cancels: `above_mean` is
        `contribution`.

        Raises:
            IndexError: fewer labels were explained.
        """
        weights_J = np.zeros(len(self.targets))
        weights_J[target] += 1
        weights_J[against] -= 1
        return self._combined(weights_J, self.targets[target].logit - self.targets[against].logit, means=0)

    def silenced(self) -> tuple[LabelScore, ...]:
        """The targets with all heads silent that were asked for.

        Raises:
            ValueError: none was.
        """
        if self.silenced_logits_K is None:
            raise ValueError("expected an explanation that was asked for with silenced_heads, found one without")
        exponentials_K = np.exp(self.silenced_logits_K.astype(np.float64) - float(self.silenced_logits_K.max()))
        probabilities_K = exponentials_K / exponentials_K.sum()
        return tuple(
            LabelScore(
                score.index,
                score.label,
                float(self.silenced_logits_K[score.index]),
                float(probabilities_K[score.index]),
            )
            for score in self.targets
        )

    def _combined(self, weights_J: NDArray[np.float64], whole: float, means: int) -> list[Part]:
        """Parts of a sum of targets' logits, less so many times the means over all labels."""

        def part(
            name: tuple[str, str], values_J: NDArray[np.float32], mean: float, map_JYX: Any = None, **more: Any
        ) -> Part:
            contribution = float(values_J @ weights_J)
            above_mean = contribution - means * mean if means else contribution
            share = above_mean / whole if whole > 0 else math.nan
            map_YX = None if map_JYX is None else np.tensordot(weights_J, map_JYX, 1).astype(np.float32)
            return Part(*name, contribution, above_mean, share, map_YX=map_YX, **more)

        parts = []
        for row, card in enumerate(self.head_cards):
            if not card.pruned:
                name = (f"encoder {card.encoder} head {card.head}", "head")
                effect = math.nan if self.head_effects_RJ is None else float(self.head_effects_RJ[row] @ weights_J)
                map_JYX = None if self.head_maps_RJYX is None else self.head_maps_RJYX[row]
                mean = float(self.mean_heads_R[row])
                parts.append(part(name, self.heads_RJ[row], mean, map_JYX, card=card, effect=effect))
        for key, values_J in self.other_parts.items():
            map_JYX = (self.other_maps or {}).get(key)
            parts.append(part(_named(key), values_J, self.mean_other_parts[key], map_JYX))
        return sorted(parts, key=lambda entry: -abs(entry.weight))

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, what is known of a head together, as `headwise explain --json` prints them."""
        values = asdict(self)
        del values["picture"]
        rows = {name: values.pop(field_name) for name, field_name in HEAD_FIELDS.items()}
        asked = {name: rows_R for name, rows_R in rows.items() if rows_R is not None}
        values["heads"] = [
            card | {name: rows_R[row] for name, rows_R in asked.items()}
            for row, card in enumerate(values.pop("head_cards"))
        ]
        named: dict[str, Any] = plain({name: value for name, value in values.items() if value is not None})
        return named

    def to_pandas(self) -> "DataFrame":
        """A row for each part and target: target, part, kind, encoder, head, contribution, above_mean, share, effect.

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
                    "above_mean": part.above_mean,
                    "share": part.share,
                    "effect": part.effect,
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
