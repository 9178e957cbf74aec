"""Is a new version much slower on this machine than the one it replaces?

Both run the same number of images in turns, so that what else the machine does slows both down. Each counts with its
fastest run. The limit is meant for accidents, an operator that the runtime has no fast code for, and is loose.
"""

import time

import numpy as np

from headwise_server.engines import EngineError, Session
from headwise_server.models import Model

ROUNDS = 5


def run_seconds(session: Session, model: Model, batch: int) -> float:
    """Time of one run of a batch of black images."""
    image = model.manifest.input
    images_NYXC = np.zeros((batch, image.height, image.width, image.channels), np.uint8)
    started = time.perf_counter()
    session.run(images_NYXC)
    return time.perf_counter() - started


def check_slowdown(model: Model, replaced: Model, batch: int, limit: float) -> None:
    """Compare both graphs of two models.

    Args:
        batch: images in a run.
        limit: largest ratio of the new model's time to that of the one it replaces.

    Raises:
        EngineError: it is slower than that; with the times.
    """
    pairs = {"classify": (model.classify, replaced.classify), "explain": (model.explain, replaced.explain)}
    for name, (new, old) in pairs.items():
        times = [(run_seconds(new, model, batch), run_seconds(old, replaced, batch)) for _ in range(ROUNDS)]
        new_seconds, old_seconds = (min(column) for column in zip(*times, strict=True))
        if new_seconds > limit * old_seconds:
            raise EngineError(
                f"expected a batch of {batch} in {name} to take at most {limit:g} times the {1e3 * old_seconds:.2f} ms "
                f"of version {replaced.manifest.version}, found {1e3 * new_seconds:.2f} ms. If that is meant, start "
                f"the server with a higher --max-slowdown."
            )
