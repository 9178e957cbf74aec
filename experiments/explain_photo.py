"""What Explain says of one photo: the picture and the table of the README, from one recorded reply.

    exporter build --dataset flowers102 --init checkpoint:flowers102 --epochs 0 --mask-by none --criterion taylor \
        --set prune.removal=budget --set prune.epochs=3 --set findings.draws=10
    headwise-server --repository models --engine onnxruntime &
    python experiments/explain_photo.py --server localhost:50051

records the server's reply for the photo `flower.jpg`, which scikit-learn ships, in results/flowers102/explain.json;
then, and without `--server` from the record alone, it draws docs/images/explain.png and puts what `headwise explain`
prints between the marks in README.md. `--check` compares the README with the record and changes nothing.

The photo shows a dahlia and the model calls it a marigold: the labels explained are the wrong one and the right one.
"""

import io
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from headwise import tables
from headwise.inputs import to_image
from headwise.messages import Question, explain_request, explanations, names_of
from headwise.results import Explanation
from headwise.v1 import bundle_pb2, service_pb2, service_pb2_grpc
from headwise_exporter.files import atomic_write
from headwise_exporter.studies.drawing import BLUE, VERMILION, save, styled
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from records import RESULTS, ROOT, read_record, write_record
from rich.console import Console

LABELS = {"marigold": "the answer", "orange dahlia": "the right label"}  # what each is
PHOTO, PHOTO_BY = "flower.jpg", "vultilion, CC BY 2.0"
RECORD = RESULTS / "flowers102" / "explain.json"
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "images" / "explain.png"
BEGIN, END = "<!-- explain: begin -->\n", "<!-- explain: end -->"
COLUMNS, PARTS = 96, 10  # of the table
BARS = 10  # of each label in the picture
DOTS_PER_INCH = 130


def photo() -> np.ndarray:
    """The photo (Y, X, C), from scikit-learn."""
    from sklearn.datasets import load_sample_image

    pixels: np.ndarray = load_sample_image(PHOTO)
    return pixels


def encoded() -> bytes:
    """The photo as the PNG file that the server gets."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(photo()).save(content, "PNG")
    return content.getvalue()


def ask(server: str) -> dict[str, Any]:
    """The server's reply for the photo, and the part of the model's manifest that names what is in it."""
    with grpc.insecure_channel(server) as channel:
        stub = service_pb2_grpc.HeadwiseServiceStub(channel)
        reply = stub.Explain(explain_request([to_image(encoded())], "", "", Question(list(LABELS))), timeout=60)
        whole = stub.GetModel(service_pb2.GetModelRequest(), timeout=60)
    manifest = bundle_pb2.Bundle(labels=whole.manifest.labels, head_cards=whole.manifest.head_cards)
    manifest.architecture.pruned_encoders.extend(whole.manifest.architecture.pruned_encoders)
    described = service_pb2.GetModelResponse(model=whole.model, manifest=manifest)
    return {"reply": _as_dict(reply), "described": _as_dict(described)}


def _as_dict(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def explanation(record: dict[str, Any]) -> Explanation:
    """The recorded reply, as the client gives it."""
    described = json_format.ParseDict(record["described"], service_pb2.GetModelResponse())
    reply = json_format.ParseDict(record["reply"], service_pb2.ExplainResponse())
    [only] = explanations(reply, names_of(described))
    return only


def table(result: Explanation) -> str:
    """What `headwise explain` prints for the model's own answer, without colours."""
    written = io.StringIO()
    Console(file=written, width=COLUMNS, color_system=None).print(tables.explanation(PHOTO, result, 0, PARTS))
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def draw_parts(axes: Axes, result: Explanation, target: int, limit: float) -> None:
    """Bars for the largest parts of a label's logit above the mean label's, and one for all others together."""
    score, ordered = result.targets[target], result.parts(target)
    rest = ordered[BARS:]
    names = [*(part.name for part in ordered[:BARS]), f"{len(rest)} other parts"]
    values = [*(part.above_mean for part in ordered[:BARS]), sum(part.above_mean for part in rest)]
    axes.barh(range(len(names)), values, color=[BLUE if value >= 0 else VERMILION for value in values])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_title(f"{score.label}, {LABELS[score.label]}: {100 * score.probability:.0f} %", fontsize=9)
    above = score.logit - float(result.logits_K.mean())
    axes.set_xlim(-limit, limit)
    axes.set_xlabel(f"against  ←  parts of {above:+.2f} above the mean  →  for", fontsize=9)


@styled
def draw(result: Explanation) -> Figure:
    """The photo, and what spoke for and against each label."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    picture, *panels = figure.subplots(1, 1 + len(result.targets), width_ratios=[1.1, *(1,) * len(result.targets)])
    picture.imshow(photo())
    picture.set_axis_off()
    picture.set_title(f"A dahlia (photo: {PHOTO_BY})", fontsize=9)
    limit = 1.1 * max(abs(result.parts(target)[0].above_mean) for target in range(len(panels)))
    for target, axes in enumerate(panels):
        draw_parts(axes, result, target, limit)
    return figure


def with_table(readme: str, shown: str) -> str:
    """The README with the table between its marks."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}```text\n{shown}```\n{END}{rest.split(END)[1]}"


def main(
    server: Annotated[str | None, typer.Option(help="Address of a server to ask; the record by default.")] = None,
    check: Annotated[bool, typer.Option(help="Compare the README with the record, and change nothing.")] = False,
) -> None:
    """Record, draw and write."""
    if server is not None:
        write_record(RECORD, {"photo": PHOTO, **ask(server)})
    result = explanation(read_record(RECORD))
    readme = README.read_text("utf-8")
    written = with_table(readme, table(result))
    if check:
        if written != readme:
            raise SystemExit(f"{README.name} is not what the record gives: run {Path(__file__).name} without --check")
        return
    with atomic_write(README) as temporary:
        temporary.write_text(written, "utf-8")
    with atomic_write(PICTURE) as temporary:
        save(draw(result), temporary, format="png", dpi=DOTS_PER_INCH)


if __name__ == "__main__":
    typer.run(main)
