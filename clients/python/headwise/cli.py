"""The command `headwise`: classify and explain image files with a running server, and measure it under load.

Needs the extra `[cli]` (grpcio-status, rich and typer); the import package does without.
"""

from headwise.entry import start

PACKAGES = ("grpc_status", "rich", "typer")  # of the extra


def main() -> None:
    """Entry point."""
    start("headwise", "headwise.commands", name="the command", extras="cli", packages=PACKAGES)


if __name__ == "__main__":
    main()
