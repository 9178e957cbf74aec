"""The entry point of `exporter`: SIGTERM stops a build as Ctrl-C does, cleanly, from before the imports on."""

import signal
import types

from headwise.entry import start

# Of the extra, by the names they are imported by. Some are needed only at the end of a build.
PACKAGES = (
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
    start("exporter", "headwise_exporter.commands.app", name="the exporter", extras="exporter", packages=PACKAGES)


if __name__ == "__main__":
    main()
