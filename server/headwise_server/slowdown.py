"""Is a new version much slower on this machine than the one it replaces?

Both run the same number of images in turns, so that what else the machine does slows both down, and each counts with
its fastest run. More rounds are run before a version is refused than before it is accepted. The limit is meant for
accidents, such as an operator that the runtime has no fast code for, and is loose.
"""

import math
import time

import numpy as np

from headwise_server.engines import EngineError, Session
from headwise_server.models import Model

ROUNDS = 5  # at least
MOST_ROUNDS = 20  # before a version is refused


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
        new_seconds = old_seconds = math.inf
        for rounds in range(1, MOST_ROUNDS + 1):
            new_seconds = min(new_seconds, run_seconds(new, model, batch))
            old_seconds = min(old_seconds, run_seconds(old, replaced, batch))
            if rounds >= ROUNDS and new_seconds <= limit * old_seconds:
                break
        else:
            raise EngineError(
                f"expected a batch of {batch} in {name} to take at most {limit:g} times the {1e3 * old_seconds:.2f} ms "
                f"of version {replaced.manifest.version}, found {1e3 * new_seconds:.2f} ms. If that is meant, start "
                f"the server with a higher --max-slowdown."
            )
