"""Options of `exporter export --layout triton`, and what it does.

Imports what it does when it runs (`commands.app`).
"""

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from headwise_exporter.commands.options import one_of

HEADWISE, TRITON = LAYOUTS = ("headwise", "triton")
OUT: Final = {HEADWISE: Path("models"), TRITON: Path("triton")}  # apart: both have <name>/<version>
DEVICES = ("auto", "cpu", "gpu")


def _checked_layout(layout: str) -> str:
    if layout not in LAYOUTS:
        raise typer.BadParameter(f"expected one of: {', '.join(LAYOUTS)}; found {layout!r}")
    return layout


def _checked_device(device: str) -> str:
    if device not in DEVICES:
        raise typer.BadParameter(f"expected one of: {', '.join(DEVICES)}; found {device!r}")
    return device


def check_source(layout: str, run: Path | None, bundle: Path | None) -> None:
    """Check that there is one thing to export, and that the layout is another than it has.

    Raises:
        BadParameter: none, both, or a bundle in the layout of bundles.
    """
    if (run is None) == (bundle is None):
        raise typer.BadParameter("expected --run, or with --layout triton --bundle, and not both")
    if bundle is not None and layout != TRITON:
        raise typer.BadParameter("expected --layout triton with --bundle: a bundle is in the other layout already")


BundleOption = Annotated[
    Path | None, typer.Option("--bundle", help="Folder <repository>/<name>/<version>, with --layout triton.")
]
LayoutOption = Annotated[
    str,
    typer.Option(
        "--layout",
        callback=_checked_layout,
        help="headwise: a bundle. triton: a model repository of Triton, from --bundle or the run's last bundle.",
        autocompletion=one_of(*LAYOUTS),
    ),
]
MaxBatchOption = Annotated[int, typer.Option(min=1, help="Images that Triton may batch.")]
InstancesOption = Annotated[int, typer.Option(min=1, help="Of each model in Triton, on each device.")]
DeviceOption = Annotated[
    str, typer.Option(callback=_checked_device, help=f"Where Triton runs them: {', '.join(DEVICES)}.")
]


def export_triton(
    bundle: Path, out: Path, name: str | None, max_batch: int, instances: int, device: str, as_json: bool
) -> None:
    """Write a bundle into a Triton repository and show where."""
    from headwise_exporter.export.triton import TritonSettings, write_triton_repository

    settings = TritonSettings(max_batch, instances, device)  # type: ignore[arg-type]  # its option has checked it
    written = [str(path) for path in write_triton_repository(bundle, out, name, settings)]
    print(json.dumps(written, indent=2) if as_json else "\n".join(written))
