"""Clients that ask a server all the time and compare every answer: nothing wrong, nothing lost, nothing that hangs."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import support
from headwise import Client, HeadwiseError
from headwise_exporter.export.graphs import run_graph

SECONDS = support.LONG_SECONDS
CLIENTS = 4
IMAGES_NYXC = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), dtype=np.uint8)
TOLERANCE = 1e-4


def expected_logits(folder: Path) -> np.ndarray:
    """What a bundle gives for the images, without a server."""
    return run_graph(folder / "classify.onnx", IMAGES_NYXC)["logits"]


@dataclass
class Load:
    """Clients that ask all the time, and compare each answer with the logits of the version that it names."""

    address: str
    expected: Mapping[str, np.ndarray]  # logits by version
    tolerated: tuple[type[HeadwiseError], ...] = ()  # that calls may end with
    stopped: threading.Event = field(default_factory=threading.Event)
    answers: Counter[str] = field(default_factory=Counter)  # by version
    failures: Counter[str] = field(default_factory=Counter)  # those that are tolerated, by what they say

    def ask(self, seed: int) -> None:
        """Ask until stopped; raises at the first wrong or missing answer."""
        generator = np.random.default_rng(seed)
        with Client(self.address, timeout_seconds=SECONDS) as client:
            while not self.stopped.is_set():
                index = int(generator.integers(len(IMAGES_NYXC)))
                call = client.explain if generator.integers(4) == 0 else client.classify
                try:
                    [result] = call([IMAGES_NYXC[index]])
                except self.tolerated as error:
                    self.failures[str(error)] += 1
                    continue
                version = result.model.version
                np.testing.assert_allclose(result.logits_K, self.expected[version][index], atol=TOLERANCE)
                self.answers[version] += 1

    def wait_for_more(self, answers: int = 50) -> None:
        """Return once so many more have come."""
        enough = self.answers.total() + answers
        support.wait_until(lambda: self.answers.total() >= enough or self.stopped.is_set())


@contextmanager
def load(address: str, expected: Mapping[str, np.ndarray], *tolerated: type[HeadwiseError]) -> Iterator[Load]:
    """Clients at work; at the end each of them must have got every answer, and the right one."""
    running = Load(address, expected, tolerated)
    with ThreadPoolExecutor(CLIENTS) as pool:
        asking: list[Future[None]] = [pool.submit(running.ask, seed) for seed in range(CLIENTS)]
        for future in asking:
            future.add_done_callback(lambda _: running.stopped.set())  # one that fails ends them all
        try:
            yield running
        finally:
            running.stopped.set()
        for future in asking:
            future.result(SECONDS)
