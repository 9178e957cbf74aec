"""The command `headwise`: classify and explain image files with a running server.

Needs the extra `[cli]` (typer and rich); the import package does without.
"""

from headwise.entry import start

PACKAGES = ("rich", "typer")  # of the extra


def main() -> None:
    """Entry point."""
    start("headwise", "headwise.commands", name="the command", extras="cli", packages=PACKAGES)


if __name__ == "__main__":
    main()
