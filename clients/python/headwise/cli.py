"""The command `headwise`: classify and explain image files with a running server.

Needs the extra `[cli]` (typer and rich); the import package does without.
"""

import sys


def main() -> None:
    """Entry point."""
    try:
        from headwise.commands import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit("headwise: the command needs typer and rich: pip install 'headwise[cli]'")
    app()


if __name__ == "__main__":
    main()
