"""What is measured of every call, whatever it came by: how it ended, why it was refused, and how long it took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from headwise_server.telemetry import Telemetry

OK, CANCELLED = "OK", "CANCELLED"


@dataclass
class Call:
    """A call that is being answered."""

    service: str
    method: str  # of those that the server has
    code: str = CANCELLED  # until it is known to have ended otherwise
    reason: str = ""  # of the ErrorInfo, where it was refused


@contextmanager
def observed(telemetry: Telemetry, call: Call) -> Iterator[Call]:
    """Measure a call; whoever answers it says how it ends."""
    began = time.monotonic()
    try:
        yield call
    finally:
        telemetry.requests.labels(call.service, call.method, call.code).inc()
        telemetry.request_seconds.labels(call.service, call.method).observe(time.monotonic() - began)
        if call.reason:
            telemetry.refusals.labels(call.reason).inc()
