"""The entry point of `exporter`: SIGTERM stops a build as Ctrl-C does, cleanly, from before the imports on.

So does the end of a torchrun that started it.
"""

import signal
import types

from headwise.entry import start

from headwise_exporter.launcher import end_with_launcher

# Of the extra, by the names they are imported by. Some are needed only at the end of a build.
PACKAGES = (
    "grpc_status",
    "jinja2",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "PIL",
    "pooch",
    "pydantic",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "tensorboard",
    "torch",
    "typer",
)


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, _interrupt)
    end_with_launcher()
    start("exporter", "headwise_exporter.commands.app", name="the exporter", extras="exporter", packages=PACKAGES)


if __name__ == "__main__":
    main()
