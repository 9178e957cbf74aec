"""What a training came to so far, epoch by epoch, while it goes on.

    metrics.jsonl   one JSON object for each epoch, as in the run's `training.json`; always whole
    tensorboard/    the same for `tensorboard --logdir`, by epoch

After a resume both go on where the checkpoint stands: what had been logged beyond it is dropped.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from headwise_exporter.files import OutputError, atomic_write
from headwise_exporter.training.loop import Epoch

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
# Name in TensorBoard of each field of an epoch.
TAGS = {
    "loss": "loss/train",
    "validation_accuracy": "accuracy/validation",
    "learning_rate": "learning_rate",
    "images_per_second": "images_per_second",
}


def write_metrics(path: Path, epochs: Sequence[Epoch]) -> None:
    """All epochs so far as JSON lines.

    Raises:
        OutputError: the system refused a write.
    """
    with atomic_write(path) as temporary:
        temporary.write_text("".join(f"{json.dumps(asdict(epoch))}\n" for epoch in epochs), "utf-8")


@contextmanager
def training_log(run: Path) -> Iterator[Callable[[Sequence[Epoch]], None]]:
    """A function to call with all epochs so far after each of them.

    Raises:
        OutputError: the system refused a write.
    """
    from torch.utils.tensorboard import SummaryWriter  # takes most of a second to import

    writer: SummaryWriter | None = None

    def log(epochs: Sequence[Epoch]) -> None:
        nonlocal writer
        write_metrics(run / METRICS, epochs)
        latest = epochs[-1]
        if writer is None:
            if latest.epoch == 1:
                shutil.rmtree(run / TENSORBOARD, ignore_errors=True)  # of another training
            writer = SummaryWriter(str(run / TENSORBOARD), purge_step=latest.epoch)
        for field, tag in TAGS.items():
            if (value := getattr(latest, field)) is not None:
                writer.add_scalar(tag, value, latest.epoch)
        writer.flush()

    try:
        yield log
    except OSError as error:
        raise OutputError(f"cannot write {run / TENSORBOARD}: {error.strerror or error}.") from error
    finally:
        if writer is not None:
            writer.close()
