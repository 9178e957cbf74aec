"""What the health service says: which models are served, by every worker of the server.

Each connection is one worker's, and nobody chooses which. So a model is SERVING where all workers serve it, and a
worker that hangs is one that serves nothing. One that has ended is not asked: its connections are gone as well.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence

from grpc_health.v1 import health, health_pb2

from headwise_server.peers import Peers
from headwise_server.repository import Repository

logger = logging.getLogger(__name__)
WATCH_SECONDS = 0.5
HANGING_SECONDS = 10.0  # a worker whose event loop has stood still for so long hangs
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Readiness:
    """Keeps the health service up to date. Belongs to one event loop.

    Args:
        services: full names of the services that are ready where any model is.
        is_stuck: whether a batch has run for too long.
    """

    def __init__(
        self, services: Sequence[str], repository: Repository, is_stuck: Callable[[], bool], peers: Peers
    ) -> None:
        self.servicer = health.aio.HealthServicer()
        self._services, self._repository, self._is_stuck, self._peers = services, repository, is_stuck, peers
        self._names: set[str] = set()  # of all models so far, also of those that are gone
        self._others: list[set[str]] = []

    async def start(self) -> None:
        """Be NOT_SERVING; the servicer itself begins with SERVING."""
        await self.servicer.set("", NOT_SERVING)

    def own(self) -> set[str]:
        """Names of the models that this worker serves."""
        return set() if self._is_stuck() else set(self._repository.models)

    async def publish(self) -> None:
        """Say what is so now; each name is looked up when its turn comes, as another may publish in between."""
        self._names |= {state.name for state in self._repository.index()}
        for name in sorted(self._names):
            await self.servicer.set(name, SERVING if name in self._served() else NOT_SERVING)
        for name in ("", *self._services):
            await self.servicer.set(name, SERVING if self._served() else NOT_SERVING)

    def _served(self) -> set[str]:
        return self.own().intersection(*self._others)

    async def look(self) -> None:
        """Ask the other workers, and publish what has changed."""
        answers = await self._peers.ask("served", timeout_seconds=HANGING_SECONDS)
        others = [set(json.loads(answer)) if isinstance(answer, str) else set[str]() for answer in answers.values()]
        if others != self._others:
            self._others = others
            await self.publish()

    async def watch(self) -> None:
        """Publish when a batch begins to hang, when it no longer does, and what other workers say; for ever."""
        was_stuck = False
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._is_stuck() != was_stuck:
                was_stuck = not was_stuck
                logger.error("a batch hangs: NOT_SERVING" if was_stuck else "no batch hangs any more")
                await self.publish()
            await self.look()
