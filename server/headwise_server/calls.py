"""What is measured and logged of every call, whatever it came by: how it ended, why, and how long it took."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from headwise_server import logs
from headwise_server.telemetry import Telemetry

OK, CANCELLED = "OK", "CANCELLED"


@dataclass
class Call:
    """A call that is being answered."""

    service: str
    method: str  # of those that the server has
    client: str  # its address
    request_id: str
    headers: Mapping[str, Any] = field(default_factory=dict, repr=False)
    code: str = CANCELLED  # until it is known to have ended otherwise
    reason: str = ""  # of the ErrorInfo, where it was refused


@contextmanager
def observed(telemetry: Telemetry, call: Call) -> Iterator[Call]:
    """Measure a call; whoever answers it says how it ends."""
    began = time.monotonic()
    logs.CURRENT.set(call.request_id)  # a call is a task, with a context of its own
    attributes = {"rpc.service": call.service, "rpc.method": call.method, "request_id": call.request_id}
    with telemetry.tracing.call(f"{call.service}/{call.method}", attributes, call.headers) as span:
        try:
            yield call
        finally:
            if span:
                span.set_attributes({"code": call.code, "reason": call.reason})
            _record(telemetry, call, time.monotonic() - began)


def _record(telemetry: Telemetry, call: Call, seconds: float) -> None:
    telemetry.requests.labels(call.service, call.method, call.code).inc()
    telemetry.request_seconds.labels(call.service, call.method).observe(seconds)
    if call.reason:
        telemetry.refusals.labels(call.reason).inc()
        telemetry.refusal_seconds.labels(call.reason).observe(seconds)
    if logs.ACCESS.isEnabledFor(logging.DEBUG):
        fields = {"service": call.service, "method": call.method, "code": call.code, "reason": call.reason}
        logs.ACCESS.debug(
            "%s %s %s %s %.6f s %s",
            *fields.values(),
            seconds,
            call.client,
            extra={"fields": {**fields, "seconds": seconds, "client": call.client}},
        )
