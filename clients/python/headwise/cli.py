"""The command `headwise`: classify and explain image files with a running server.

Needs the extra `[cli]` (typer and rich); the import package does without.
"""

from headwise.entry import load


def main() -> None:
    """Entry point."""
    load("headwise", "headwise.commands", name="the command", extras="cli").app(prog_name="headwise")


if __name__ == "__main__":
    main()
