"""What `headwise classify`, `explain`, `load` and `models` do."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from headwise import tables
from headwise.connection_options import Connection, connected, utf8
from headwise.entry import INTERRUPTED, version_callback
from headwise.errors import HeadwiseError, InvalidRequest, NotFound, PermissionDenied, Unauthenticated
from headwise.results import Classification, Explanation

WRONG_REQUESTS = (InvalidRequest, NotFound, PermissionDenied, Unauthenticated)
ALL_LABELS = 2**32 - 1  # as top_k, which is cut to what the model has
SHOWN_MAPS = 3  # of each label
MAPS_NOTE = (
    "A map says which tokens a contribution comes from. It is an account of the sum, not the region that matters: "
    "tokens of later encoders have been mixed with others."
)
BAD_REQUEST, FAILED = 2, 1  # exit statuses: what was asked for is wrong; the call failed

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
out = Console()
err = Console(stderr=True)


FilesArgument = Annotated[list[Path], typer.Argument(help="Image files.", metavar="FILE...")]
ModelOption = Annotated[
    str, typer.Option("--model", callback=utf8, help="May be left out where the server has one alone.")
]
VersionOption = Annotated[str, typer.Option("--model-version", callback=utf8, help="The newest by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TimeoutOption = Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the answer.")]


@app.callback()
def main(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=version_callback("headwise"), is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None:
    """Labels of images, and which attention head spoke for which label, from a running headwise-server."""


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except HeadwiseError as error:
        err.print(f"[red]headwise:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(BAD_REQUEST if isinstance(error, WRONG_REQUESTS) else FAILED) from error
    except BrokenPipeError:  # of our own output, which nobody reads
        raise
    except OSError as error:
        err.print(f"[red]headwise:[/] {escape(str(error.filename))}: {error.strerror}", highlight=False, soft_wrap=True)
        raise typer.Exit(BAD_REQUEST) from error


def _print_json(files: Sequence[Path], results: Sequence[Classification | Explanation]) -> None:
    rows = [{"file": str(file), **result.to_dict()} for file, result in zip(files, results, strict=True)]
    print(json.dumps(rows, indent=2))


def _print_note(text: str) -> None:
    out.print(text, style="dim", highlight=False, soft_wrap=True)


@app.command()
@connected
def classify(
    files: FilesArgument,
    connection: Connection,
    model: ModelOption = "",
    model_version: VersionOption = "",
    top_k: Annotated[int, typer.Option(min=1, help="Labels to show.")] = 5,
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """The labels of image files."""
    with _clear_errors(), connection.client(timeout) as client:
        classifications = client.classify(files, model=model, version=model_version, top_k=top_k)
        if as_json:
            _print_json(files, classifications)
            return
        for file, result in zip(files, classifications, strict=True):
            out.print(tables.classification(str(file), result))
        _print_note(tables.footer(classifications[0].model, classifications[0].timings))


def _head(text: str) -> tuple[int, int]:
    """Encoder and head of a head's name.

    Raises:
        BadParameter: it is none.
    """
    encoder, separator, head = text.partition(".")
    if not (separator and all(number.isascii() and number.isdecimal() for number in (encoder, head))):
        raise typer.BadParameter(f"expected ENCODER.HEAD, such as 0.3, found {text!r}", param_hint="--silence")
    return int(encoder), int(head)


def _print_explanation(
    title: str, result: Explanation, targets: Iterable[int], against: str | None, shown_parts: int
) -> None:
    """What was asked of one image, target by target.

    Raises:
        BadParameter: the label to compare with is none of the model's.
    """
    labels = [score.label for score in result.targets]
    if against is not None and against not in labels:
        raise typer.BadParameter(f"expected a label of the model, found {against!r}", param_hint="--against")
    for target in targets:
        if labels[target] == against:
            continue
        if against is None:
            out.print(tables.explanation(title, result, target, shown_parts))
            parts = result.parts(target)
        else:
            out.print(tables.contrast(title, result, target, labels.index(against), shown_parts))
            parts = result.contrast(target, labels.index(against))
        for part in [part for part in parts if part.map_YX is not None][:SHOWN_MAPS]:
            out.print(tables.token_map(part))
        if result.effect_correlations_J is not None and against is None:
            _print_note(
                f"Falls are of the logit when that head alone is removed; contributions and falls correlate "
                f"{float(result.effect_correlations_J[target]):.2f} over the heads (Spearman)."
            )
    if result.head_maps_RJYX is not None:
        _print_note(MAPS_NOTE)
    if result.silenced_logits_K is not None:
        silent, others = result.silenced(), [] if against is None else [labels.index(against)]
        asked = list(dict.fromkeys([*targets, *others]))
        out.print(tables.silenced([result.targets[row] for row in asked], [silent[row] for row in asked]))


@app.command()
@connected
def explain(
    files: FilesArgument,
    connection: Connection,
    model: ModelOption = "",
    model_version: VersionOption = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", callback=utf8, help="To explain; may be given several times.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Labels to explain where none is named.")] = 1,
    parts: Annotated[int, typer.Option(min=1, help="Parts of the model to show for each label.")] = 10,
    against: Annotated[
        str | None, typer.Option(callback=utf8, help="Why each label, and not this one: the difference, split.")
    ] = None,
    maps: Annotated[
        bool, typer.Option("--maps", help="Also where the largest parts' contributions come from.")
    ] = False,
    causal: Annotated[
        bool, typer.Option("--causal", help="Also how far the logit falls when each head is removed.")
    ] = False,
    silence: Annotated[
        list[str] | None,
        typer.Option(metavar="ENCODER.HEAD", help="Also the labels without this head; several, all at once."),
    ] = None,
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Which parts of the model spoke for and against the labels of image files."""
    silenced_heads = [_head(text) for text in silence or ()]
    labels, everything = label or [], against is not None and not label
    if against is not None and against not in labels:
        labels = [*labels, against] if labels else []
    with _clear_errors(), connection.client(timeout) as client:
        try:
            explanations = client.explain(
                files,
                labels=labels,
                model=model,
                version=model_version,
                top_k=ALL_LABELS if everything else top_k,
                maps=maps,
                causal=causal,
                silenced_heads=silenced_heads,
            )
        except ValueError as error:  # of heads that the model does not have
            raise typer.BadParameter(str(error), param_hint="--silence") from None
        if as_json:
            _print_json(files, explanations)
            return
        for file, result in zip(files, explanations, strict=True):
            shown_targets = top_k if everything else len(result.targets)
            _print_explanation(str(file), result, range(shown_targets), against, parts)
        first, residual = explanations[0], max(result.completeness_residual for result in explanations)
        _print_note(
            f"Parts are direct effects: what a head does through later heads counts there. They add up within "
            f"{residual:.1e} (tolerance {first.completeness_tolerance:.0e}).\n"
            f"{tables.footer(first.model, first.timings)}"
        )


@app.command()
@connected
def models(
    connection: Connection,
    timeout: TimeoutOption = 30.0,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a server that still starts.")] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """The models that a server serves."""
    with _clear_errors(), connection.client(timeout) as client:
        if wait:
            client.wait_until_ready(wait)
        served = client.list_models()
        if as_json:
            print(json.dumps([asdict(model) for model in served], indent=2))
        else:
            out.print(tables.models(served))


def _exactly_one(**options: float | None) -> None:
    names = [f"--{name.replace('_', '-')}" for name in options]
    if sum(value is not None for value in options.values()) != 1:
        raise typer.BadParameter(f"expected one of {', '.join(names[:-1])} and {names[-1]}")


@app.command()
@connected
def load(
    connection: Connection,
    model: ModelOption = "",
    model_version: VersionOption = "",
    rate: Annotated[float | None, typer.Option(min=0.001, help="Calls a second, at random times.")] = None,
    image_rate: Annotated[float | None, typer.Option(min=0.001, help="The same in images a second.")] = None,
    closed: Annotated[
        int | None, typer.Option(min=1, help="Callers instead of a rate: each calls again when it has its answer.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.001, help="How long calls are sent.")] = 10.0,
    images: Annotated[
        Path | None, typer.Option(exists=True, help="File or folder of images to send; random pixels otherwise.")
    ] = None,
    images_per_call: Annotated[int, typer.Option(min=1, help="Images of one call.")] = 1,
    explain_share: Annotated[float, typer.Option(min=0, max=1, help="Of the calls: Explain, not Classify.")] = 0.0,
    deadline_seconds: Annotated[float, typer.Option(min=0.001, help="Of each call.")] = 30.0,
    cancel_share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the calls: cancelled after a random part of the deadline.")
    ] = 0.0,
    connections: Annotated[int, typer.Option(min=1, help="To the server; calls take turns.")] = 1,
    max_in_flight: Annotated[
        int, typer.Option(min=1, help="Calls without an answer; more than that are not sent, but counted.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="Of times, pixels, and which calls are cancelled.")] = 0,
    verify: Annotated[bool, typer.Option("--verify", help="Compare all answers to the same request.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="File to write all figures to.")
    ] = None,
) -> None:
    """Send load to a server: latencies, rates and refusals. Status 1 where no call succeeds or an answer is wrong."""
    _exactly_one(rate=rate, image_rate=image_rate, closed=closed)
    from headwise import load_command
    from headwise.load import LoadSettings

    try:
        settings = LoadSettings(
            seconds=seconds,
            rate=image_rate / images_per_call if image_rate else rate,
            callers=closed,
            explain_share=explain_share,
            deadline_seconds=deadline_seconds,
            cancel_share=cancel_share,
            connections=connections,
            max_in_flight=max_in_flight,
            seed=seed,
            verify=verify,
        )
        with _clear_errors(), connection.client(deadline_seconds) as client:
            requests = load_command.requests_for(client, images, images_per_call, seed, model, model_version)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with _clear_errors():
        measurement = load_command.measure(connection, requests, settings, json_file, out, err)
    if measurement.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not measurement.samples.counts["ok"] or measurement.samples.wrong_replies:
        raise typer.Exit(FAILED)
