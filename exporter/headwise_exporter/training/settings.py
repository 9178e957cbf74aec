"""What a training depends on besides the model, the images and the machine."""

from dataclasses import dataclass, field, replace

from headwise_exporter.data.augmentation import AugmentationSettings
from headwise_exporter.training.optimizers import OptimizerName, learning_rate

EVALUATIONS = 20  # of the validation accuracy, over a whole training


@dataclass(frozen=True)
class TrainingSettings:
    """All that a training run depends on besides the model, the images and the machine."""

    epochs: int
    batch_size: int = 64  # over all processes
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    weight_decay: float = 0.06
    warm_up_epochs: float = 5
    label_smoothing: float = 0.1
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    gradient_clip: float = 1.0  # norm
    average_decay: float = 0.0  # of the averaged weights, which then are the result; 0: the last weights are
    bf16: bool = False  # autocast
    compile: bool = False  # torch.compile
    seed: int = 0
    patience_epochs: int = 0  # without a better validation accuracy, then training stops (`early_stopping`); 0: never

    def __post_init__(self) -> None:
        if self.patience_epochs < 0:
            raise ValueError(f"expected patience_epochs of 0 or more, found {self.patience_epochs}")

    def evaluate_every(self) -> int:
        """Epochs between two evaluations on validation images; the last epoch is always evaluated."""
        return max(1, min(self.epochs // EVALUATIONS, self.patience_epochs or self.epochs))


def learning_rate_at(epoch: float, settings: TrainingSettings) -> float:
    """Learning rate at a (fractional) epoch."""
    return learning_rate(
        epoch,
        epochs=settings.epochs,
        warm_up_epochs=settings.warm_up_epochs,
        peak=settings.learning_rate,
        final=settings.final_learning_rate,
    )


def fine_tuning_settings(
    settings: TrainingSettings, epochs: int, learning_rate: float, batch_size: int | None = None
) -> TrainingSettings:
    """The same settings for fine-tuning: fewer epochs, a tenth of them warm-up, another peak, no averaging.

    All epochs are trained: fine-tuning is short, and what it comes to is compared.
    """
    return replace(
        settings,
        epochs=epochs,
        batch_size=batch_size or settings.batch_size,
        learning_rate=learning_rate,
        warm_up_epochs=epochs / 10,
        average_decay=0.0,
        patience_epochs=0,
    )
