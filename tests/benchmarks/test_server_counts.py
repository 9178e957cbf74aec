"""What is read of a server's processes."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from headwise_server.telemetry import Telemetry, merged
from server_counts import Counts, counts, cpu_seconds


@contextmanager
def answering(text: bytes) -> Iterator[str]:
    """The address of a server with these metrics."""

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Metrics) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_counts_are_of_all_workers_together() -> None:
    """Refusals for want of room alone, and how many of them took 10 ms at most."""
    telemetry = Telemetry()
    for reason, seconds in (("OVERLOADED", 0.001), ("OVERLOADED", 0.02), ("INVALID_ARGUMENT", 0.001)):
        telemetry.refusal_seconds.labels(reason).observe(seconds)
    telemetry.wasted_images.inc(3)
    text = telemetry.exposition().decode()
    with answering(merged({"0": text, "1": text})) as address:
        assert counts(address) == Counts(6, 4, 2)
        assert counts(address) - counts(address) == Counts(0, 0, 0)


def test_processor_time_grows_with_what_is_done() -> None:
    """Of this process, by a tenth of a second at least once it has worked for so long."""
    before, used = cpu_seconds(os.getpid()), os.times()
    while sum(os.times()[:2]) - sum(used[:2]) < 0.2:
        pass
    assert cpu_seconds(os.getpid()) - before >= 0.1
