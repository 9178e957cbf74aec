"""Exit 0 when a server on this machine says SERVING: `python -m headwise_server.healthcheck [ADDRESS] [MODEL]`.

For a container's health check; Kubernetes asks grpc.health.v1 itself. TLS and certificates come from the environment,
by the names that the command `headwise` has for them.
"""

import os
import sys

import grpc
from headwise.access import Access, from_environment
from headwise.entry import require

TIMEOUT_SECONDS = 30.0  # whoever runs the check has a limit of its own; the image sets 5 s


def is_serving(address: str, model: str = "", access: Access | None = None) -> bool:
    """Whether the server at that address serves, or serves that model."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # of an extra, which `main` checks first

    with (access or Access()).channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(  # type: ignore[attr-defined]  # missing in the published stubs
                health_pb2.HealthCheckRequest(service=model), timeout=TIMEOUT_SECONDS
            )
        except grpc.RpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def main() -> None:
    """Entry point.

    Raises:
        SystemExit: 0 for a server that serves, 1 otherwise.
    """
    require("headwise_server.healthcheck", ("grpc_health",), name="the server", extras="server,cpu")
    arguments = [*sys.argv[1:], "", ""]
    try:
        access = from_environment(os.environ)
        sys.exit(0 if is_serving(arguments[0] or "127.0.0.1:50051", arguments[1], access) else 1)
    except (OSError, ValueError) as error:
        sys.exit(f"headwise_server.healthcheck: {error}")


if __name__ == "__main__":
    main()
