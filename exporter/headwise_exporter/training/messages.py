"""What is said of a training while it goes on: where it is, how long it takes, and where its weights come from.

How long it takes is said from the time that its own first steps take. The very first is left out, in which memory is
taken and code is made ready; the next are timed until they come to `TIMED_SECONDS`. Nothing is run for the forecast
alone, so the training is the same with it and without.

Limit: it is the pace of these seconds. What else the machine does later is not in it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from headwise_exporter.progress import Advance, counted, duration
from headwise_exporter.training.loop import Step, TrainingResult
from headwise_exporter.training.settings import TrainingSettings

TIMED_SECONDS = 1.0
PROBED = 1 / 3  # of the time of an image that is trained on, for one that probes are trained on; 0.3 on digits
EVALUATED = 1 / 3  # of the time of an image that is trained on: once forward, and not back


@dataclass
class FirstSteps:
    """Measures the pace of a training by its first steps."""

    warm: bool = False
    done: bool = False
    images: int = 0
    seconds: float = 0.0

    def take(self, step: Step) -> float | None:
        """Images a second over the steps so far, once, when they are enough; else None."""
        if self.done or not self.warm:
            self.warm = True
            return None
        self.images, self.seconds = self.images + step.images, self.seconds + step.seconds
        self.done = self.seconds >= TIMED_SECONDS
        return self.images / self.seconds if self.done else None


def training_seconds(
    settings: TrainingSettings, images: int, validation_images: int, epochs_left: float, images_per_second: float
) -> float:
    """Of so many epochs with their evaluations."""
    evaluations = epochs_left / settings.evaluate_every()
    return (epochs_left * images + evaluations * validation_images * EVALUATED) / images_per_second


def training_line(
    settings: TrainingSettings, images: int, seconds: float, *, resumed: bool, seconds_after: float
) -> str:
    """What is about to happen and how long it takes, in one line.

    Args:
        seconds: that are left of the training, if it goes on to its last epoch.
        resumed: whether some of it was done before.
        seconds_after: that the command takes afterwards, for measuring and pruning; 0 where it does neither.
    """
    what = f"{counted(settings.epochs, 'epochs')} of {counted(images, 'images')} in batches of {settings.batch_size:,}"
    most = "at most " if 0 < settings.patience_epochs < settings.epochs else ""
    left = " left" if resumed else ""
    line = f"training: {what}, {most}about {duration(seconds)}{left} on this machine (--epochs N for fewer)"
    if seconds_after:
        line += f"; measuring and pruning then take about {duration(seconds_after)} more"
    return line


@dataclass
class TrainingMessages:
    """Moves the bar of a training, and says lines about it.

    `start` and `step` are what `training.loop.train` calls.
    """

    settings: TrainingSettings
    images: int
    validation_images: int
    advance: Advance
    say: Callable[[str], None]
    work_after: float = 0.0  # of the stages that follow, in images trained on
    started_over: bool = False  # if nothing is resumed: although there is a checkpoint
    steps_before: int = 0
    first_steps: FirstSteps = field(default_factory=FirstSteps)

    @property
    def steps_of_an_epoch(self) -> int:
        """Batches that the images make."""
        return math.ceil(self.images / self.settings.batch_size)

    def start(self, steps: int) -> None:
        """Say where the training goes on, if so many steps were done before."""
        self.steps_before = steps
        total = self.settings.epochs * self.steps_of_an_epoch
        if not steps:
            if self.started_over:
                self.say("starting over: the unfinished training in this folder had other settings or images")
            return
        epochs, in_epoch = divmod(steps, self.steps_of_an_epoch)
        self.advance(epochs * self.images + in_epoch * self.settings.batch_size, resumed=True)
        epoch = min(epochs + 1, self.settings.epochs)
        self.say(f"resumed at epoch {epoch:,} of {self.settings.epochs:,} (step {steps:,} of {total:,})")

    def step(self, step: Step) -> None:
        """Move the bar; say how long the training takes as soon as that is known."""
        note = f"epoch {step.epoch} of {self.settings.epochs}, {step.images_per_second:,.0f} images/s, "
        self.advance(step.images, f"{note}loss {step.loss:.3f}")
        if (pace := self.first_steps.take(step)) is None:
            return
        epochs_left = self.settings.epochs - self.steps_before / self.steps_of_an_epoch
        seconds = training_seconds(self.settings, self.images, self.validation_images, epochs_left, pace)
        resumed, seconds_after = self.steps_before > 0, self.work_after / pace
        self.say(training_line(self.settings, self.images, seconds, resumed=resumed, seconds_after=seconds_after))


def end_line(result: TrainingResult, settings: TrainingSettings) -> str | None:
    """Where the weights come from, unless from the last epoch."""
    best = result.best
    if best is None or not result.epochs:
        return None
    weights = (
        f"the model has the weights after epoch {best.epoch} ({100 * best.accuracy:.2f} % of the validation images)"
    )
    if not result.stopped_early(settings):
        return None if best.epoch == settings.epochs else f"no better validation accuracy later: {weights}"
    return (
        f"stopped early after epoch {len(result.epochs)} of {settings.epochs}: no better validation accuracy since "
        f"epoch {best.improved}; {weights}"
    )
