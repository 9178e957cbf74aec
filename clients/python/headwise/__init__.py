"""Client of a Headwise server, and the bundle format that exporter and server share."""

from headwise.client import AsyncClient, Client
from headwise.errors import (
    DeadlineExceeded,
    HeadwiseError,
    InvalidRequest,
    NotFound,
    Overloaded,
    ServerFailure,
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
    "ServedModel",
    "ServerFailure",
    "Timings",
    "Unavailable",
]
