"""Client of a Headwise server, and the bundle format that exporter and server share."""

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
    Unauthenticated,
    Unavailable,
)
from headwise.messages import Classification, Explanation, HeadCard, LabelScore, ServedModel, Timings

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
    "PermissionDenied",
    "ServedModel",
    "ServerFailure",
    "Timings",
    "Tls",
    "Unauthenticated",
    "Unavailable",
]
