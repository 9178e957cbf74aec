"""What the records of all data sets say together, as plain data for the top of docs/results.md.

`label_gains`: the best masks that rest on SNPs against the best that know no label, share by share, before and after
the fine-tuning. The best is the one of the highest mean accuracy on the evaluated images, on both sides, so each side
profits from being chosen; the side with more choices, SNPs, profits more. `permuted` masks are on neither side.

`few_labels`: the smallest share of hidden nodes that was tried for subsets of the labels, by several criteria.

`expert_agreement`: how far other trainings name the same experts, encoder by encoder.

`deletion_verdict`: whether patches that a method names matter more than those that a baseline names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from headwise_exporter.pruning.names import DENSE, GRADUAL, PERMUTED
from headwise_exporter.studies.verdicts import SIGNIFICANT
from headwise_exporter.studies.wording import p_value

LABEL_BLIND = ("random", "magnitude", "wanda")
CRITERIA = ("snp", "taylor", "magnitude", "random")
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Best:
    """The masks of the highest mean accuracy, of several."""

    mask_by: str
    accuracy: float


@dataclass(frozen=True)
class Gain:
    """The best masks that rest on SNPs, and the best that know no label."""

    label_blind: Best
    by_snps: Best

    @property
    def gain(self) -> float:
        """Accuracy that SNPs add."""
        return self.by_snps.accuracy - self.label_blind.accuracy


@dataclass(frozen=True)
class ShareGains:
    """At one share of the connections."""

    share: float
    at_once: Gain  # gradual masks left out, the first of which keep more
    trained: Gain


def _is_label_blind(mask_by: str) -> bool:
    return mask_by.removeprefix(GRADUAL) in LABEL_BLIND


def _gain(results: Sequence[Record], accuracy: Callable[[Record], float]) -> Gain:
    def best(label_blind: bool) -> Best:
        side = [result for result in results if _is_label_blind(result["mask_by"]) == label_blind]
        highest = max(side, key=accuracy)
        return Best(highest["mask_by"], accuracy(highest))

    return Gain(best(True), best(False))


def _mean(moment: str) -> Callable[[Record], float]:
    return lambda result: sum(result[moment]) / len(result[moment])


def label_gains(comparison: Record) -> list[ShareGains]:
    """At every share, in the order of the comparison; nothing where no masks that know no label were compared."""
    compared = [result for result in comparison["results"] if result["mask_by"] not in (DENSE, PERMUTED)]
    gains: list[ShareGains] = []
    if not any(result["mask_by"] in LABEL_BLIND for result in compared):
        return gains
    for share, of_share in groupby(compared, lambda result: result["share"]):
        results = list(of_share)
        abrupt = [result for result in results if not result["mask_by"].startswith(GRADUAL)]
        gains.append(ShareGains(share, _gain(abrupt, _mean("masked_accuracies")), _gain(results, _mean("accuracies"))))
    return gains


def few_labels(subsets: Record) -> dict[str, float]:
    """Accuracy among a subset's labels by criterion, at the smallest share of hidden nodes."""
    smallest = min(subsets["settings"]["shares"])
    accuracy = {result["criterion"]: result["accuracy"] for result in subsets["results"] if result["share"] == smallest}
    return {"share": smallest, "all_nodes": subsets["dense_accuracy"], **{name: accuracy[name] for name in CRITERIA}}


@dataclass(frozen=True)
class EncoderAgreement:
    """Of the heads of one encoder over pairs of trainings."""

    encoder: int
    agreement: float  # share of the labels with the same expert, mean of the pairs
    by_chance: float  # the same where labels are exchanged
    pairs: int
    significant: int  # pairs that agree more than exchanged labels at p < 0.05


def expert_agreement(seeds: Record) -> list[EncoderAgreement]:
    """Every encoder, over the pairs that share labels."""
    rows = sorted((row for row in seeds["rows"] if "agreement" in row), key=lambda row: int(row["encoder"]))
    agreements = []
    for encoder, of_encoder in groupby(rows, lambda row: row["encoder"]):
        pairs = list(of_encoder)
        agreement, by_chance = (sum(row[key] for row in pairs) / len(pairs) for key in ("agreement", "by_chance"))
        significant = sum(row["p_value"] < 0.05 for row in pairs)
        agreements.append(EncoderAgreement(encoder, agreement, by_chance, len(pairs), significant))
    return agreements


def outcome(difference: Record) -> str:
    """What a paired difference shows, its p-value being adjusted for all that were looked at."""
    if difference["p_value"] >= SIGNIFICANT:
        return "not shown to differ from"
    return "better than" if difference["mean"] > 0 else "worse than"


def deletion_verdict(record: Record, method: str) -> str:
    """A sentence on the fall of the logit under the first way to remove patches."""
    rows = {row["method"]: row["fall"] for row in record["tables"][0]["rows"]}
    own = rows[method]
    against = (
        f"{outcome(own[to])} {words} ({rows[baseline]['mean']:.2f}, p {p_value(own[to]['p_value'])})"
        for to, baseline, words in (
            ("to_random", "random", "random patches"),
            ("to_centre", "centre of the photo", "the centre"),
        )
    )
    return f"{method} {own['mean']:.2f}: {', '.join(against)}"
