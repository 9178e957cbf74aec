"""What the studies of a finished run can be asked for. Imports no torch: the command's help shows the defaults."""

from dataclasses import dataclass

from headwise_exporter.pruning.names import COMPARED, Layers


@dataclass(frozen=True)
class ComparisonSettings:
    """What `studies.comparison` compares."""

    shares: tuple[float, ...] = (0.5, 0.25, 0.1, 0.05)  # of each masked layer's connections
    mask_by: tuple[str, ...] = COMPARED
    seeds: int = 3
    layers: Layers = "both"
    epochs: int = 1  # of the fine-tuning
    images: int | None = None  # of the training split, drawn at random; all by default
    batch_size: int | None = None  # of the fine-tuning; the dense model's by default
    learning_rate: float = 3e-4  # peak of the fine-tuning


@dataclass(frozen=True)
class SubsetSettings:
    """What `studies.subsets` tries."""

    labels: int = 10  # of each subset
    subsets: int = 20  # drawn at random
    shares: tuple[float, ...] = (0.75, 0.5, 0.25, 0.1)  # of the hidden nodes of each encoder
    images: int = 1000  # training images of a subset at most; of 10 labels as many as the SNPs rest on
    seed: int = 0
