"""Client of a Headwise server, and the bundle format that exporter and server share.

What it offers is imported when it is first asked for, so that the bundle format and the commands do not wait for gRPC.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwise.access import Tls
    from headwise.client import AsyncClient, Client
    from headwise.errors import (
        DeadlineExceeded,
        HeadwiseError,
        InvalidRequest,
        NotFound,
        Overloaded,
        PermissionDenied,
        ServerFailure,
        TooLarge,
        Unauthenticated,
        Unavailable,
    )
    from headwise.inputs import Url
    from headwise.results import (
        Classification,
        Explanation,
        HeadCard,
        LabelScore,
        Part,
        ServedModel,
        Timings,
        TokenGrid,
    )

__all__ = [
    "AsyncClient",
    "Classification",
    "Client",
    "DeadlineExceeded",
    "Explanation",
    "HeadCard",
    "HeadwiseError",
    "InvalidRequest",
    "LabelScore",
    "NotFound",
    "Overloaded",
    "Part",
    "PermissionDenied",
    "ServedModel",
    "ServerFailure",
    "Timings",
    "Tls",
    "TokenGrid",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Url",
]

MODULES = ("client", "results", "errors", "inputs", "access")  # that have them


def __getattr__(name: str) -> Any:
    """Import what is offered under a name."""
    if name in __all__:
        for module in MODULES:
            values = vars(import_module(f"headwise.{module}"))
            if name in values:
                return globals().setdefault(name, values[name])
    raise AttributeError(f"module 'headwise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
