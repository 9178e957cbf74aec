"""Figures as words: the same in tables of the terminal, in reports, and in documents made from records."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from headwise.text import shown

from headwise_exporter.nodes.names import EXCHANGED, UNTRAINED, UNTRAINED_AGAIN
from headwise_exporter.pruning.names import GRADUAL

NO_MASKS = "none"
CONTROL_NAMES = {UNTRAINED: "untrained", UNTRAINED_AGAIN: "untrained again", EXCHANGED: "labels exchanged"}
LAYERS = {"classifier_head": "classifier head", "feed_forward": "feed-forward layers", "both": "both groups of layers"}
MOST_COLUMNS = 28  # of a label's name
SMALLEST_P_VALUE = 0.001  # that is written out


def percent(share: float) -> str:
    """0.6589 as 65.89."""
    return f"{100 * share:.2f}"


def short(name: str) -> str:
    """A label's name as tables and axes have room for it."""
    return shown(name, MOST_COLUMNS)


def mean_percent(shares: Sequence[float]) -> str:
    """The mean of several shares, as `percent`."""
    return percent(sum(shares) / len(shares))


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign; never a negative zero."""
    return f"{100 * difference:+z.2f}"


def spread(difference: Mapping[str, Any] | None) -> str:
    """Mean difference of the seeds with the lowest and the highest, from a `studies.comparison.Difference`."""
    if difference is None:
        return ""
    return f"{points(difference['mean'])} ({points(difference['lowest'])} to {points(difference['highest'])})"


def at_once(result: Mapping[str, Any]) -> str:
    """Mean accuracy before the fine-tuning, of a `studies.comparison.Result`.

    Nothing where masks are gradual: the first of them keep more than the share.
    """
    return "" if result["mask_by"].startswith(GRADUAL) else mean_percent(result["masked_accuracies"])


def p_value(value: float) -> str:
    """To three digits after the point."""
    return f"<{SMALLEST_P_VALUE}" if value < SMALLEST_P_VALUE else f"{value:.3f}"


def fine_tuning(settings: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """How models were fine-tuned.

    Args:
        settings: `epochs`, `images` (None for all), `batch_size` (None for that of the training), `learning_rate`, and
            `distillation`, without which the labels alone were learnt from.
        training: `training.settings.TrainingSettings` of the dense model.
    """
    images = f"{settings['images']:,}" if settings["images"] else "all"
    return (
        f"{settings['epochs']} epoch{'s' if settings['epochs'] > 1 else ''} on {images} training images in batches of "
        f"{settings['batch_size'] or training['batch_size']}, {training['optimizer']}"
        f"{', bf16' if training['bf16'] else ''}, peak learning rate {settings['learning_rate']}"
        f"{_teacher(settings.get('distillation'))}"
    )


def _teacher(distillation: Mapping[str, Any] | None) -> str:
    if distillation is None or distillation["label_share"] == 1:
        return ""
    share = f" and {100 * distillation['label_share']:g} % labels" if distillation["label_share"] else ""
    return f", learning from the dense model's logits at temperature {distillation['temperature']:g}{share}"


def masks(layers: str, mask_by: str) -> str:
    """Where masks go and what chooses the connections that they keep."""
    return NO_MASKS if mask_by == NO_MASKS else f"{mask_by}, {LAYERS[layers]}"


def tally(outcomes: Sequence[Mapping[str, Any]]) -> str:
    """How ANDC does against other masks, in one sentence, from `studies.verdicts.MaskOutcome`s."""
    if not outcomes:
        return "ANDC was not compared with other masks: `exporter compare` does it."
    count = Counter(other["outcome"] for other in outcomes)
    return (
        f"Against other masks that keep as many connections ANDC wins {count['wins']} of {len(outcomes)} comparisons "
        f"and loses {count['loses']}; to win or lose takes every seed, at p < 0.05."
    )


def ratio(value: float | None) -> str:
    """A ratio to two digits; a dash where it has no denominator."""
    return "-" if value is None else f"{value:.2f}"


def control(name: str) -> str:
    """One of `nodes.controls` in words."""
    return CONTROL_NAMES[name]


def controls(findings: Mapping[str, str]) -> str:
    """What was found of each control, by its words, in one clause."""
    return ", ".join(f"{name} {finding}" for name, finding in findings.items())


SHOWN = (
    percent,
    short,
    mean_percent,
    points,
    spread,
    at_once,
    p_value,
    fine_tuning,
    masks,
    tally,
    ratio,
    control,
    controls,
)
FILTERS: Final[dict[str, Callable[..., str]]] = {function.__name__: function for function in SHOWN}
