"""What `headwise load` does with its settings: requests, the run, tables and a file of all figures."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from headwise import load, load_tables
from headwise.client import Client
from headwise.connection_options import Connection
from headwise.load_requests import Requests, make_requests, random_images, read_images
from headwise.load_samples import Samples, columns, figures, warnings

CLEAR_LINE = "\r\x1b[K"


def requests_for(
    client: Client, images: Path | None, images_per_call: int, seed: int, model: str, version: str
) -> Requests:
    """Requests of image files, or of random pixels at the size that the server says its model has.

    Raises:
        HeadwiseError: the server cannot be asked.
        OSError, ValueError: the files cannot be read, or are no images.
    """
    if images is not None:
        return make_requests(read_images(images), images_per_call, model, version)
    size = client.get_model(model, version).input
    return make_requests(random_images(size, images_per_call, seed), images_per_call, model, version)


@contextmanager
def _written_whole(path: Path | None) -> Iterator[Callable[[Any], object]]:
    """What writes values as JSON; the file is tried before the work that they come from, and appears by rename."""
    if path is None:
        yield lambda values: None
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            file = temporary.open("w", encoding="utf-8")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        with file:
            yield lambda values: file.write(json.dumps(values, indent=2, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _progress(err: Console, of_seconds: float) -> load.Show | None:
    """One line that is written over: a bar that is drawn would take the event loop milliseconds, and calls wait."""
    if not err.is_terminal:
        return None

    def show(seconds: float, samples: Samples, in_flight: int) -> None:
        line = load_tables.so_far(seconds, of_seconds, samples, in_flight)
        err.file.write(CLEAR_LINE + line[: err.width - 1])
        err.file.flush()

    return show


def _print(out: Console, err: Console, measurement: load.Measurement, values: dict[str, Any]) -> None:
    table = columns(measurement.samples)
    for part in (load_tables.outcomes, load_tables.times):
        out.print(part(values))
    if (ok := table.groups == "ok").any():
        out.print(load_tables.histogram(1e3 * table.latency[ok]))
    out.print(load_tables.rates(values), highlight=False, markup=False, soft_wrap=True)
    for warning in values["warnings"]:
        err.print(f"[yellow]headwise:[/] {warning}", highlight=False, soft_wrap=True)


def measure(
    connection: Connection,
    requests: Requests,
    settings: load.LoadSettings,
    json_file: Path | None,
    out: Console,
    err: Console,
) -> load.Measurement:
    """Run, and show and write what was measured.

    Raises:
        HeadwiseError: no server is there, or a request is wrong.
        OSError: the file cannot be written.
    """
    with _written_whole(json_file) as write:
        show = _progress(err, settings.seconds)
        try:
            measurement = load.run(connection.target, requests, settings, show, connection.access)
        finally:
            if show:
                err.file.write(CLEAR_LINE)
        values = {
            "server": connection.target,
            "model": measurement.model and asdict(measurement.model),
            "settings": {**asdict(settings), "images_per_call": requests.images_per_call},
            "interrupted": measurement.interrupted,
            "client_busy_share": measurement.busy_share,
            **figures(measurement.samples, measurement.seconds, requests.images_per_call),
        }
        values["warnings"] = warnings(values)
        write(values)
    _print(out, err, measurement, values)
    return measurement
