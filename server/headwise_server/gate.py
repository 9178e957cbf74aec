"""Who may call what, decided before a message is received: by address where there are no tokens, else by token.

Open to all are health, which is never behind anything, and whether the server is alive and ready. Which model a call
is about is known once it is parsed: `inference.State` checks that.
"""

from collections.abc import Iterable

from headwise_server.errors import ServiceError
from headwise_server.identity import Action, Identity, anyone
from headwise_server.rate_limits import RateLimits
from headwise_server.tokens import Tokens

Metadata = Iterable[tuple[str, str | bytes]]
HEALTH, CHANNELZ, METRICS = "/grpc.health.v1.Health/", "/grpc.channelz.v1.Channelz/", "GET /metrics"
NEEDED = {CHANNELZ: Action.CHANNELZ, METRICS: Action.METRICS}  # by what a method begins with
OPEN = ("/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady")


class Gate:
    """Lets calls in. Belongs to one event loop.

    Args:
        tokens: that calls must have one of; None where everybody may call.
    """

    def __init__(self, tokens: Tokens | None = None, rates: RateLimits | None = None) -> None:
        self._tokens, self._rates = tokens, rates or RateLimits()

    def _identify(self, metadata: Metadata, tokens: Tokens) -> Identity:
        return tokens.identify(value for key, value in metadata if key == "authorization")

    def enter(self, method: str, metadata: Metadata, peer: str) -> Identity:
        """Who makes a call to one of our services.

        Raises:
            Unauthenticated: the call has no token that is known.
            RateLimited: its client calls too often.
        """
        if self._tokens is None:
            identity = anyone(peer)
        elif method in OPEN:
            identity = Identity(peer, anyone(peer).limited_as, frozenset(), frozenset())
        else:
            identity = self._identify(metadata, self._tokens)
        self._rates.take_call(identity)
        return identity

    def refusal(self, method: str, metadata: Metadata) -> ServiceError | None:
        """Why a call to another service (health, reflection, channelz, metrics) is refused; None where it is not."""
        if self._tokens is None or method.startswith(HEALTH):
            return None
        try:
            identity = self._identify(metadata, self._tokens)
            for beginning, action in NEEDED.items():
                if method.startswith(beginning):
                    identity.require(action)
        except ServiceError as error:
            return error
        return None
