"""Verdicts on the four claims of arXiv:2501.12900, from one run's figures.

Each verdict says what it rests on. The bars are our choice, set before a figure was seen:

1. Nodes recognise few labels: in every tap point of the encoders on average at most a quarter of all labels, and a
   signal-to-noise ratio that is above 1, which is no label information, by at least twice as much as in any control.
2. Sharpening: for each kind of tap point the ratio rises from the first encoder to the last, at the threshold and
   without one, and by at least twice as much as in any control; "in part" where that holds for some kinds.
3. Pruning costs nothing: after the fine-tuning ANDC is within half a point of the dense model after the same
   training, or above it, at every share that was tried; "in part" where at some. Whether other masks are better at the
   same share stands beside it and does not count.
4. Heads are experts: sharper than nodes re-dealt among the heads at p < 0.05, corrected by Holm for the number of
   heads; "holds" for three quarters of them or more, "in part" for a quarter or more.

Claims 1, 2 and 4 are judged against the controls of `nodes.controls`: untrained models, and exchanged labels. Ratios
are compared by the ends of their intervals, ours the low one. Each control is judged by the same rule against the
others, and a claim that by these bars holds for a control as well, or in part for both, does not hold here. Without
controls there is no verdict.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

from headwise_exporter.model.anatomy import FEED_FORWARD_HIDDEN, FEED_FORWARD_OUT, HEADS
from headwise_exporter.nodes.summary import ANY_THRESHOLD, THRESHOLDS
from headwise_exporter.pruning.names import ANDC, DENSE, GRADUAL, PERMUTED
from headwise_exporter.studies.wording import CONTROL_NAMES, mean_percent, points, spread

FEW_LABELS = 0.25  # share of all labels
CLEAR_EXCESS = 2.0  # of a ratio or of its change over 1, against that of a control
RATIOS = ("snr", ANY_THRESHOLD)  # signal to noise
FREE = 0.005  # of accuracy
SIGNIFICANT = 0.05
MOST, SOME = 0.75, 0.25  # share of the heads
WITHOUT_CONTROLS = "No bar could fail without controls. Run `exporter measure --controls`."
KINDS = (HEADS, FEED_FORWARD_HIDDEN, FEED_FORWARD_OUT)

Finding = Literal["holds", "holds in part", "does not hold here", "not tested"]
Outcome = Literal["wins", "ties", "loses"]
RANKS: dict[Finding, int] = {"holds": 0, "holds in part": 1, "does not hold here": 2, "not tested": 3}
Findings = dict[str, Any]  # of `nodes.findings`
Controls = Mapping[str, Findings]  # by the names of `nodes.controls`


@dataclass(frozen=True)
class Verdict:
    """On one claim."""

    claim: str
    finding: Finding
    numbers: tuple[str, ...]  # sentences
    controls: dict[str, Finding] = field(default_factory=dict)  # by what each is, judged by the same rule


@dataclass(frozen=True)
class MaskOutcome:
    """How ANDC does against other masks that keep as many connections."""

    share: float  # of the connections
    mask_by: str  # what chose the others
    outcome: Outcome  # of ANDC; it wins or loses in every seed at p < 0.05, or ties


@dataclass(frozen=True)
class Grade:
    """How far a claim holds, by counting what passes."""

    passed: int
    of: int
    most: float = 1.0  # share that is needed to hold
    some: float = 0.0  # and more than which, to hold in part

    @property
    def finding(self) -> Finding:
        """In words."""
        if self.passed >= self.most * self.of:
            return "holds"
        return "holds in part" if self.passed > self.some * self.of else "does not hold here"


def _judged(
    claim: str,
    findings: Findings,
    controls: Controls,
    grade: Callable[[Findings, Sequence[Findings]], Grade],
    numbers: tuple[str, ...],
) -> Verdict:
    """The model against its controls, and each of these against the others by the same rule."""
    own = grade(findings, list(controls.values()))
    theirs = {
        name: grade(control, [other for other in controls.values() if other is not control])
        for name, control in controls.items()
    }
    finding = own.finding
    as_good = [CONTROL_NAMES[name] for name, each in theirs.items() if RANKS[each.finding] <= RANKS[finding]]
    if finding != "does not hold here" and as_good:
        numbers = (*numbers, f"By these bars it {finding}, and for a control as well ({', '.join(as_good)}).")
        finding = "does not hold here"
    return Verdict(claim, finding, numbers, {CONTROL_NAMES[name]: each.finding for name, each in theirs.items()})


def _encoder_taps(findings: dict[str, Any]) -> list[dict[str, Any]]:
    return [tap for tap in findings["tap_points"] if tap["encoder"] is not None]


def _ratio(tap: dict[str, Any], figure: str = "snr") -> str:
    value, spread = tap["figures"][figure], tap["uncertainties"].get(figure)
    if value is None:
        return "no noise"
    return f"{value:.2f}" + (f" ({spread['low']:.2f}-{spread['high']:.2f})" if spread else "")


def _range(tap: dict[str, Any], figure: str = "snr") -> tuple[float, float] | None:
    """Ends of a figure's interval; None where it is infinite, for there is no noise."""
    spread = tap["uncertainties"].get(figure)
    return None if spread is None else (spread["low"], spread["high"])


def _clearly_informed(tap: dict[str, Any], others: Sequence[dict[str, Any]]) -> bool:
    """Whether the ratio's excess over 1 is at least `CLEAR_EXCESS` times that of the same tap point of the others."""
    own, theirs = _range(tap), [_range(other) for other in others]
    if own is None:
        return True
    most = max((high for low, high in (ends for ends in theirs if ends)), default=1.0)
    return own[0] > 1 and None not in theirs and own[0] - 1 >= CLEAR_EXCESS * (most - 1)


def _few_labels(findings: Findings, others: Sequence[Findings]) -> Grade:
    labels = len(findings["heads"][0]["expert_K"])
    taps = list(zip(_encoder_taps(findings), *map(_encoder_taps, others), strict=True))
    passed = sum(_recognised(tap) <= FEW_LABELS * labels and _clearly_informed(tap, rest) for tap, *rest in taps)
    return Grade(passed, len(taps))


def _recognised(tap: dict[str, Any]) -> float:
    """Labels that a node recognises, on average."""
    return float(tap["figures"]["clusters_per_node"] * tap["figures"]["cluster_size"])


def _span(values: Sequence[float], digits: int = 1) -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def _each(findings: Findings, controls: Controls, value: Callable[[dict[str, Any]], float | None], digits: int) -> str:
    """A figure of the tap points, of the model and of each control, from the lowest to the highest."""
    named = {"trained": findings, **{CONTROL_NAMES[name]: control for name, control in controls.items()}}
    spans = []
    for name, each in named.items():
        known = [figure for tap in _encoder_taps(each) if (figure := value(tap)) is not None]
        spans.append(f"{name} {_span(known, digits)}" if known else f"{name} no noise")
    return "; ".join(spans)


def few_labels(findings: Findings, controls: Controls | None) -> Verdict:
    """Claim 1."""
    claim = "Each node recognises a few small clusters of labels"
    if controls is None:
        return Verdict(claim, "not tested", (WITHOUT_CONTROLS,))
    labels = len(findings["heads"][0]["expert_K"])
    passed = _few_labels(findings, list(controls.values()))
    return _judged(
        claim,
        findings,
        controls,
        _few_labels,
        (
            f"{passed.passed} of {passed.of} tap points pass.",
            f"Labels that a node recognises, of {labels}, means of the tap points: "
            f"{_each(findings, controls, _recognised, 1)}.",
            f"Signal-to-noise ratio: {_each(findings, controls, lambda tap: tap['figures']['snr'], 2)}.",
            "Fields above the threshold outside a node's clusters: "
            f"{_each(findings, controls, lambda tap: tap['figures']['noise_per_node'], 1)}.",
        ),
    )


def _rise(findings: Findings, kind: str, figure: str) -> tuple[float, float]:
    """By what factor a ratio changes from the first encoder to the last: by the near ends of the intervals, the far."""
    taps = [tap for tap in _encoder_taps(findings) if tap["kind"] == kind]
    first, last = _range(taps[0], figure), _range(taps[-1], figure)
    if first is None:
        return 0.0, 1.0
    return (inf, inf) if last is None else (last[0] / first[1], last[1] / first[0])


def _sharpens(findings: Findings, others: Sequence[Findings], kind: str) -> bool:
    """Whether both ratios rise, by at least `CLEAR_EXCESS` times as much as in the others."""
    rises = [
        (_rise(findings, kind, figure)[0], max(_rise(other, kind, figure)[1] for other in others)) for figure in RATIOS
    ]
    return all(own > 1 and own - 1 >= CLEAR_EXCESS * (theirs - 1) for own, theirs in rises)


def _sharpening(findings: Findings, others: Sequence[Findings]) -> Grade:
    return Grade(sum(_sharpens(findings, others, kind) for kind in KINDS), len(KINDS))


def _thresholds(findings: Findings, kind: str) -> str:
    """At which thresholds the ratio rises and falls from the first encoder to the last, the intervals apart."""
    ways: dict[str, list[float]] = {"rises": [], "falls": []}
    for threshold in THRESHOLDS:
        near, far = _rise(findings, kind, f"snr_{threshold}")
        if near > 1:
            ways["rises"].append(threshold)
        elif 0 < far < 1:
            ways["falls"].append(threshold)
    said = [f"{way} at {', '.join(f'{at:g}' for at in those)}" for way, those in ways.items() if those]
    return " and ".join(said) or "neither rises nor falls at any"


def sharpening(findings: Findings, controls: Controls | None) -> Verdict:
    """Claim 2."""
    claim = "The signal-to-noise ratio rises along the encoders"
    if controls is None:
        return Verdict(claim, "not tested", (WITHOUT_CONTROLS,))
    sentences = []
    for kind in KINDS:
        taps = [tap for tap in _encoder_taps(findings) if tap["kind"] == kind]
        free = " → ".join(_ratio(tap, ANY_THRESHOLD) for tap in taps)
        beside = ", ".join(
            f"{CONTROL_NAMES[name]} {_factor(_rise(control, kind, 'snr'))}" for name, control in controls.items()
        )
        sentences.append(
            f"{kind}: {' → '.join(_ratio(tap) for tap in taps)}; without a threshold {free}. Of the thresholds from "
            f"{THRESHOLDS[0]:g} to {THRESHOLDS[-1]:g} it {_thresholds(findings, kind)}. From the first encoder to the "
            f"last it changes by a factor of {_factor(_rise(findings, kind, 'snr'))}; {beside}."
        )
    return _judged(claim, findings, controls, _sharpening, tuple(sentences))


def _factor(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}"


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
    return Verdict(claim, Grade(passed, len(by_andc)).finding, tuple(sentence for sentence in sentences if sentence))


def holm(p_values: Sequence[float]) -> list[bool]:
    """Which hypotheses are rejected at 0.05 over all of them, by Holm's step-down procedure."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > SIGNIFICANT / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def _expert_heads(findings: Findings, others: Sequence[Findings]) -> Grade:
    p_values = [p for encoder in findings["heads"] for p in encoder["p_value_H"]]
    return Grade(sum(holm(p_values)), len(p_values), MOST, SOME)


def expert_heads(findings: Findings, controls: Controls | None) -> Verdict:
    """Claim 4."""
    claim = "Each head becomes the expert of a subset of labels"
    if controls is None:
        return Verdict(claim, "not tested", (WITHOUT_CONTROLS,))
    named = {"trained": findings, **{CONTROL_NAMES[name]: control for name, control in controls.items()}}
    counts = {name: _expert_heads(each, ()) for name, each in named.items()}
    sharper = ", ".join(f"{name} {count.passed} of {count.of}" for name, count in counts.items())
    sentences = [f"Heads that are sharper than the null (Holm, 0.05): {sharper}."]
    for encoder in findings["heads"]:
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
    return _judged(claim, findings, controls, _expert_heads, tuple(sentences))


def verdicts(findings: Findings, controls: Controls | None, comparison: dict[str, Any] | None) -> list[Verdict]:
    """On all four claims."""
    return [
        few_labels(findings, controls),
        sharpening(findings, controls),
        free_pruning(comparison),
        expert_heads(findings, controls),
    ]
