"""What a build does for each data set: a table of typed settings, every one of which the command line can override."""

from collections.abc import Callable
from dataclasses import dataclass, field

from exporter.andc import Rule
from exporter.cct import CCTConfig, cct
from exporter.compaction import Budget
from exporter.snp import THRESHOLD, ProbeSettings
from exporter.training import TrainingSettings


@dataclass(frozen=True)
class PruneSettings:
    """How a trained model is masked and made smaller."""

    rule: Rule = "both"
    threshold: float = THRESHOLD
    criterion: str = "auto"  # or one of exporter.criteria.CRITERIA
    budget: Budget = field(default_factory=Budget)
    epochs: int = 12  # of each short training
    learning_rate: float = 3e-4  # peak of each short training


@dataclass(frozen=True)
class Recipe:
    """From data set to bundle."""

    dataset: str
    model: Callable[[], CCTConfig]
    training: TrainingSettings
    attention_dropout: float = 0.1
    stochastic_depth: float = 0.1
    probes: ProbeSettings = field(default_factory=ProbeSettings)
    prune: PruneSettings = field(default_factory=PruneSettings)


def _digits() -> CCTConfig:
    return cct(image_size=8, channels=1, labels=10, depth=3, heads=4, width=128, feed_forward=256)


RECIPES: dict[str, Recipe] = {
    # 8 x 8 scans, 16 tokens. No mirroring: a mirrored digit is another sign.
    "digits": Recipe(
        dataset="digits",
        model=_digits,
        training=TrainingSettings(epochs=60, rotation_degrees=12.0, scaling=0.1, shift=0.1),
    ),
}
