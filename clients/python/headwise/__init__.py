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
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from headwise.inputs import Url
from headwise.results import Classification, Explanation, HeadCard, LabelScore, Part, ServedModel, Timings, TokenGrid

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
