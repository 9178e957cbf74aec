"""Who makes a call, and what they may do. Everybody may do everything, unless tokens are used."""

import ipaddress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from headwise_server.errors import NotAllowed

SHOWN_CHARACTERS = 64  # of a name that a message repeats


class Action(StrEnum):
    """What a token may permit, besides asking about models."""

    CLASSIFY = "classify"
    EXPLAIN = "explain"
    REPOSITORY = "repository"  # load and unload models
    CHANNELZ = "channelz"  # see the connections of all clients
    METRICS = "metrics"  # see what all clients do, and the names of all models


@dataclass(frozen=True)
class Limits:
    """How fast a client may send; 0 for as fast as it can."""

    calls_per_second: float = 0.0
    images_per_second: float = 0.0


@dataclass(frozen=True)
class Identity:
    """Who makes a call.

    Args:
        client: whose turn and whose memory it is.
        limited_as: whose rate it is: a client with several connections has one.
        models: that it may use; None for all.
        limits: its own; None for those of all clients.
    """

    client: str
    limited_as: str
    models: frozenset[str] | None = None
    actions: frozenset[Action] = frozenset(Action)
    limits: Limits | None = None

    def permits(self, model: str) -> bool:
        """Whether it may use that model."""
        return self.models is None or model in self.models

    def require_model(self, model: str) -> None:
        """Refuse a model that it may not use; whether there is one of that name is not told.

        Raises:
            NotAllowed: it may not.
        """
        if not self.permits(model):
            raise NotAllowed(
                f"expected a model that the token of {self.client!r} permits, found {model[:SHOWN_CHARACTERS]!r}. "
                "ListModels names those that it does."
            )

    def require(self, action: Action) -> None:
        """Refuse an action that it may not carry out.

        Raises:
            NotAllowed: it may not.
        """
        if action not in self.actions:
            permitted = ", ".join(sorted(self.actions)) or "none"
            raise NotAllowed(
                f"expected an action that the token of {self.client!r} permits ({permitted}), found {action.value!r}."
            )


CURRENT: ContextVar[Identity] = ContextVar("identity")  # of the call that is being answered


@lru_cache(maxsize=4096)  # connections, of which each makes many calls
def anyone(peer: str = "") -> Identity:
    """A client of whom nothing is known but its address, as gRPC writes it, where everybody may do everything."""
    return Identity(peer, host_of(peer))


def host_of(peer: str) -> str:
    """The address of a peer without its port, and of IPv6 the network that one household has."""
    kind, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0]
    if kind == "ipv6":
        address = host.removeprefix("%5B").removesuffix("%5D").strip("[]").partition("%")[0]
        try:
            return f"ipv6:{ipaddress.IPv6Network((address, 64), strict=False)}"
        except ValueError:
            return peer
    return f"{kind}:{host}" if kind == "ipv4" else kind
