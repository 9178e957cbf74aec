"""How a trained model is masked and made smaller, as a recipe states it."""

from dataclasses import dataclass, field
from typing import Literal

from headwise_exporter.nodes.snp import THRESHOLD
from headwise_exporter.pruning.compaction import Budget
from headwise_exporter.pruning.names import ANDC, AUTO, CRITERIA, LAYERS, MASK_BY, NONE, Layers
from headwise_exporter.training.distillation import DistillationSettings

LITERAL: tuple[Layers, str] = ("both", ANDC)  # of the masked model that is reported where there is a choice
# Layers and what chooses their connections. Where nothing is trained `wanda*overlap` is the best: docs/results.md.
CANDIDATES: tuple[tuple[Layers, str], ...] = (
    ("classifier_head", ANDC),
    ("feed_forward", ANDC),
    LITERAL,
    ("both", NONE),
    ("both", "wanda*overlap"),
)
EASINGS = 2  # times that half as much is removed


@dataclass(frozen=True)
class SearchSettings:
    """How far and in what steps `pruning.search` goes.

    Raises:
        ValueError: a speed-up not above 1, a share of the operations or a cost ratio outside 0 .. 1, both at once, or
            no round.
    """

    speedup: float | None = None  # of the dense model's latency over the pruned one's; without it and `macs`, as far
    macs: float | None = None  # share of the dense model's operations that is kept;   as the loss allows
    round: float = 0.8  # what a round leaves of the cost before it
    rounds: int = 8  # at most
    images: int = 500  # training images on which removals are compared before any fine-tuning

    def __post_init__(self) -> None:
        if self.speedup is not None and not self.speedup > 1:
            raise ValueError(f"expected a speedup above 1, found {self.speedup}")
        for name in ("macs", "round"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"expected a share of {name} between 0 and 1, found {value}")
        if self.speedup is not None and self.macs is not None:
            raise ValueError(f"expected a speedup or a share of the macs, found both ({self.speedup} and {self.macs})")
        if self.rounds < 1 or self.images < 1:
            raise ValueError(f"expected at least one round and one image, found {self.rounds} and {self.images}")

    @property
    def cost_kept(self) -> float | None:
        """Share of the dense model's cost that is aimed at; None for as little as the loss allows."""
        return 1 / self.speedup if self.speedup is not None else self.macs


@dataclass(frozen=True)
class PruneSettings:
    """How a trained model is masked and made smaller.

    Raises:
        ValueError: unknown layers, choice of connections or criterion, a share outside 0 .. 1, or a search without an
            end.
    """

    # Where masks go, and what chooses the connections that they keep: one of `names.MASK_BY`, or none.
    layers: Literal["auto", "feed_forward", "classifier_head", "both"] = AUTO  # auto: the best on validation
    mask_by: str = AUTO  # auto: the best on validation
    threshold: float = THRESHOLD  # at which a field counts as recognition
    keep: float | None = None  # share of each masked layer's connections, by a threshold of its own
    criterion: str = AUTO  # one of `names.CRITERIA`, or auto: the best on validation
    removal: Literal["search", "budget"] = "search"  # in rounds, or at once to the shares of `budget`
    search: SearchSettings = field(default_factory=SearchSettings)
    budget: Budget = field(default_factory=Budget)
    max_drop_points: float = 0.5  # of validation accuracy, below the dense model; 100 takes what comes
    epochs: int = 12  # of each fine-tuning
    images: int | None = None  # of the training split, drawn at random; all by default
    batch_size: int | None = None  # of each fine-tuning; the dense model's by default
    learning_rate: float = 1e-3  # peak of each fine-tuning
    distillation: DistillationSettings = field(default_factory=DistillationSettings)  # the dense model is the teacher

    def __post_init__(self) -> None:
        for name, known in (
            ("layers", (AUTO, *LAYERS)),
            ("mask_by", (AUTO, NONE, *MASK_BY)),
            ("criterion", (AUTO, *CRITERIA)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"expected {name} to be one of {', '.join(known)}, found {getattr(self, name)!r}")
        for name in ("threshold", "keep"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"expected {name} in 0 .. 1, found {value}")
        if not 0 <= self.max_drop_points <= 100:
            raise ValueError(f"expected max_drop_points in 0 .. 100, found {self.max_drop_points}")
        if self.removal == "search" and self.max_drop_points == 100 and self.search.cost_kept is None:
            raise ValueError("expected an end of the search, found max_drop_points=100 with no speedup and no macs")

    def mask_candidates(self) -> list[tuple[Layers, str]]:
        """Layers and choice of connections of every masked model that is tried."""
        fitting = [
            (layers, mask_by)
            for layers, mask_by in CANDIDATES
            if (self.layers in (AUTO, layers) or mask_by == NONE) and self.mask_by in (AUTO, mask_by)
        ]
        return fitting or [("both" if self.layers == AUTO else self.layers, self.mask_by)]

    def budgets(self) -> list[Budget]:
        """Budgets that are tried, one after another, until a model passes."""
        budgets = [self.budget]
        while self.max_drop_points < 100 and len(budgets) <= EASINGS:
            budgets.append(budgets[-1].eased())
        return budgets

    def passes(self, accuracy: float, dense_accuracy: float) -> bool:
        """Whether a model of that accuracy loses no more than it may."""
        return accuracy >= dense_accuracy - self.max_drop_points / 100

    def criterion_candidates(self) -> tuple[str, ...]:
        """Criteria that are tried."""
        return CRITERIA if self.criterion == AUTO else (self.criterion,)
