"""The entry point of `exporter`: SIGTERM stops a build as Ctrl-C does, cleanly, from before the slow imports on.

So does the end of a torchrun that started it.
"""

import signal
import types

from headwise.entry import load

from headwise_exporter.launcher import end_with_launcher


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, _interrupt)
    end_with_launcher()
    commands = load("exporter", "headwise_exporter.commands.app", name="the exporter", extras="exporter")
    commands.app(prog_name="exporter")


if __name__ == "__main__":
    main()
