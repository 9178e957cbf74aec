"""Verdicts on the four claims of arXiv:2501.12900, from one run's figures.

Each verdict says what it rests on. The bars are our choice, set before a figure was seen:

1. Nodes recognise few labels: on average at most a quarter of all labels in every tap point of the encoders, and the
   signal-to-noise ratio's interval above 1, which is no label information.
2. Sharpening: for each kind of tap point the ratio rises from the first encoder to the last, their intervals apart;
   "in part" where that holds for some kinds.
3. Pruning costs nothing: after the fine-tuning ANDC is within half a point of the dense model after the same
   training, or above it, at every share that was tried; "in part" where at some. Whether other masks are better at the
   same share stands beside it and does not count.
4. Heads are experts: sharper than nodes re-dealt among the heads at p < 0.05, corrected by Holm for the number of
   heads; "holds" for three quarters of them or more, "in part" for a quarter or more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from headwise_exporter.model.anatomy import FEED_FORWARD_HIDDEN, FEED_FORWARD_OUT, HEADS
from headwise_exporter.pruning.names import ANDC, DENSE, GRADUAL, PERMUTED
from headwise_exporter.studies.wording import mean_percent, points, spread

FEW_LABELS = 0.25  # share of all labels
FREE = 0.005  # of accuracy
SIGNIFICANT = 0.05
MOST, SOME = 0.75, 0.25  # share of the heads
KINDS = (HEADS, FEED_FORWARD_HIDDEN, FEED_FORWARD_OUT)

Finding = Literal["holds", "holds in part", "does not hold here", "not tested"]
Outcome = Literal["wins", "ties", "loses"]


@dataclass(frozen=True)
class Verdict:
    """On one claim."""

    claim: str
    finding: Finding
    numbers: tuple[str, ...]  # sentences


@dataclass(frozen=True)
class MaskOutcome:
    """How ANDC does against other masks that keep as many connections."""

    share: float  # of the connections
    mask_by: str  # what chose the others
    outcome: Outcome  # of ANDC; it wins or loses in every seed at p < 0.05, or ties


def _graded(passed: int, of: int, most: float = 1.0, some: float = 0.0) -> Finding:
    if passed >= most * of:
        return "holds"
    return "holds in part" if passed > some * of else "does not hold here"


def _encoder_taps(findings: dict[str, Any]) -> list[dict[str, Any]]:
    return [tap for tap in findings["tap_points"] if tap["encoder"] is not None]


def _snr(tap: dict[str, Any]) -> str:
    value, spread = tap["figures"]["snr"], tap["uncertainties"].get("snr")
    if value is None:
        return "no noise"
    return f"{value:.2f}" + (f" ({spread['low']:.2f}-{spread['high']:.2f})" if spread else "")


def few_labels(findings: dict[str, Any]) -> Verdict:
    """Claim 1."""
    labels = len(findings["heads"][0]["expert_K"])
    taps = _encoder_taps(findings)
    recognised = [tap["figures"]["clusters_per_node"] * tap["figures"]["cluster_size"] for tap in taps]
    passed = sum(
        few <= FEW_LABELS * labels and ("snr" not in tap["uncertainties"] or tap["uncertainties"]["snr"]["low"] > 1)
        for few, tap in zip(recognised, taps, strict=True)
    )
    noise = [tap["figures"]["noise_per_node"] for tap in taps]
    return Verdict(
        "Each node recognises a few small clusters of labels",
        _graded(passed, len(taps)),
        (
            f"{passed} of {len(taps)} tap points pass.",
            f"A node recognises {min(recognised):.1f} to {max(recognised):.1f} of {labels} labels, the mean of a tap "
            f"point with the fewest and of the one with the most.",
            f"Outside its clusters it adds {min(noise):.1f} to {max(noise):.1f} fields above the threshold.",
        ),
    )


def sharpening(findings: dict[str, Any]) -> Verdict:
    """Claim 2."""
    passed, sentences = 0, []
    for kind in KINDS:
        taps = [tap for tap in _encoder_taps(findings) if tap["kind"] == kind]
        first, last = (tap["uncertainties"].get("snr") for tap in (taps[0], taps[-1]))
        silent = taps[-1]["figures"]["snr"] is None  # no noise at all
        passed += bool(first and (last["low"] > first["high"] if last else silent))
        sentences.append(f"{kind}: {' → '.join(_snr(tap) for tap in taps)}.")
    return Verdict("The signal-to-noise ratio rises along the encoders", _graded(passed, len(KINDS)), tuple(sentences))


def _clear(difference: dict[str, Any]) -> bool:
    """Of one sign and p < 0.05 in every seed."""
    one_sign = difference["lowest"] > 0 or difference["highest"] < 0
    return bool(one_sign and max(difference["p_values"]) < SIGNIFICANT)


def _outcome(result: dict[str, Any]) -> Outcome:
    """Of ANDC against the masks of the result."""
    if not _clear(result["to_andc"]):
        return "ties"
    return "wins" if result["to_andc"]["mean"] < 0 else "loses"


def outcomes(comparison: dict[str, Any] | None) -> list[MaskOutcome]:
    """ANDC against all other masks at every share, in the order of the comparison; none where nothing was compared."""
    results = comparison["results"] if comparison is not None else []
    others = (result for result in results if result["mask_by"] not in (ANDC, DENSE))
    return [MaskOutcome(result["share"], result["mask_by"], _outcome(result)) for result in others]


def better_masks(results: Sequence[dict[str, Any]]) -> dict[float, dict[str, float]]:
    """For each share the masks that beat ANDC in every seed at p < 0.05, each with its mean advantage."""
    better: dict[float, dict[str, float]] = {}
    for result in results:
        if result["to_andc"] is not None and _outcome(result) == "loses":
            better.setdefault(result["share"], {})[result["mask_by"]] = result["to_andc"]["mean"]
    return better


def _beaten(results: Sequence[dict[str, Any]], mask_by: str) -> str:
    theirs = [result for result in results if result["mask_by"] == mask_by]
    beaten = [f"{result['share']:.0%}" for result in theirs if _outcome(result) == "wins"]
    if not theirs:
        return ""
    return f"It beats `{mask_by}` masks in every seed at p < 0.05 at {', '.join(beaten) or 'no share'}."


def _at_once(result: dict[str, Any]) -> float:
    """Mean accuracy under the masks before any training."""
    return float(sum(result["masked_accuracies"]) / len(result["masked_accuracies"]))


def _with_overlap(results: Sequence[dict[str, Any]]) -> list[str]:
    """What the overlap of SNPs adds to a score that is blind to labels, after the fine-tuning and before it."""
    before = {(result["share"], result["mask_by"]): _at_once(result) for result in results}
    products: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        if result["to_factor"] is not None:
            products.setdefault(result["mask_by"], []).append(result)
    sentences = []
    for mask_by, shares in products.items():
        factor = mask_by.split("*")[0]
        gains = [
            f"{points(difference['mean'])}{'*' if _clear(difference) else ''} at {share:.0%}"
            for share, difference in ((result["share"], result["to_factor"]) for result in shares)
        ]
        line = f"`{mask_by}` minus `{factor}`, points: {', '.join(gains)} (* in every seed at p < 0.05)"
        if not mask_by.startswith(GRADUAL):
            at_once = [points(before[result["share"], mask_by] - before[result["share"], factor]) for result in shares]
            line += f"; before any training {', '.join(at_once)}"
        sentences.append(line + ".")
    return sentences


def free_pruning(comparison: dict[str, Any] | None) -> Verdict:
    """Claim 3."""
    claim = "Pruning by the clusters (ANDC) costs no accuracy"
    if comparison is None:
        return Verdict(claim, "not tested", ("Run `exporter compare`.",))
    results = comparison["results"]
    by_andc = [result for result in results if result["mask_by"] == ANDC]
    passed = sum(result["to_dense"]["mean"] >= -FREE for result in by_andc)
    whole = next(result for result in results if result["mask_by"] == DENSE)
    sentences = [
        "Against the dense model after the same fine-tuning, which goes from "
        f"{mean_percent(whole['masked_accuracies'])} to {mean_percent(whole['accuracies'])} % in it:"
    ]
    sentences += [
        f"At {result['kept']:.0%} of the connections, points over the seeds: {spread(result['to_dense'])}; "
        f"before any training {points(_at_once(result) - _at_once(whole))}."
        for result in by_andc
    ]
    sentences += [_beaten(results, mask_by) for mask_by in ("random", PERMUTED)]
    sentences += _with_overlap(results)
    better = better_masks(results)
    sentences += [
        f"Better than ANDC at {share:.0%}, points: "
        f"{', '.join(f'`{mask_by}` {points(gain)}' for mask_by, gain in gains.items())}."
        for share, gains in better.items()
    ]
    if not better:
        sentences.append("Better than ANDC at the same share: no masks that were tried.")
    return Verdict(claim, _graded(passed, len(by_andc)), tuple(sentence for sentence in sentences if sentence))


def holm(p_values: Sequence[float]) -> list[bool]:
    """Which hypotheses are rejected at 0.05 over all of them, by Holm's step-down procedure."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > SIGNIFICANT / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def expert_heads(findings: dict[str, Any]) -> Verdict:
    """Claim 4."""
    heads = findings["heads"]
    p_values = [p for encoder in heads for p in encoder["p_value_H"]]
    sharp = sum(holm(p_values))
    sentences = [f"{sharp} of {len(p_values)} heads are sharper than the null (Holm, 0.05)."]
    for encoder in heads:
        pairs = zip(encoder["sharpness_H"], encoder["null_mean_H"], strict=True)
        line = f"Encoder {encoder['encoder']}: " + ", ".join(f"{own:.2f} against {null:.2f}" for own, null in pairs)
        if encoder["halves"] is not None:
            halves = encoder["halves"]
            line += f"; two halves of the images name the same expert for {halves['agreement']:.0%} of the labels"
            line += f" ({halves['by_chance']:.0%} by chance)"
        if seeds := encoder["seeds"]:
            shares = ", ".join(f"{seed['agreement']:.0%} ({seed['by_chance']:.0%} by chance)" for seed in seeds)
            line += f"; probes trained again name the same expert for {shares}"
        sentences.append(line + ".")
    return Verdict(
        "Each head becomes the expert of a subset of labels",
        _graded(sharp, len(p_values), MOST, SOME),
        tuple(sentences),
    )


def verdicts(findings: dict[str, Any], comparison: dict[str, Any] | None) -> list[Verdict]:
    """On all four claims."""
    return [few_labels(findings), sharpening(findings), free_pruning(comparison), expert_heads(findings)]
