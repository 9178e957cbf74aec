"""The examples in other languages. Each needs tools and packages that not every machine has; a skip says which."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import processes
import pytest
import support
from headwise import Client

ROOT = Path(__file__).parent.parent.parent
BUILT = shutil.ignore_patterns("node_modules", "generated", "build")
# What npm and go say where a registry cannot be reached, or go is too old to fetch the version that go.mod asks for.
UNAVAILABLE = re.compile(
    r".*(?:ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|no such host|connection refused"
    r"|i/o timeout|network is unreachable|GOPROXY=off|toolchain not available|invalid go version).*"
)
HEADS = 5  # that the examples name


@dataclass(frozen=True)
class Example:
    """How an example is built from nothing and run: what its page in the documentation says."""

    language: str
    tools: tuple[str, ...]
    fetch: tuple[str, ...]
    build: tuple[str, ...]
    run: tuple[str, ...]


BUF = ("npx", "--yes", "--package", "@bufbuild/buf@1.75.0", "buf")
EXAMPLES = (
    Example(
        language="typescript",
        tools=("node", "npm"),
        fetch=("npm", "ci", "--ignore-scripts", "--prefer-offline", "--fetch-retries=1", "--fetch-timeout=60000"),
        build=("npm", "run", "build"),  # which has tsc check all types, strictly
        run=("node", "build/explain.js"),
    ),
    Example(
        language="go",
        tools=("go", "npx"),
        fetch=("go", "mod", "download"),
        build=(*BUF, "generate"),
        run=("go", "run", "."),
    ),
)


def fetch(example: Example, folder: Path) -> None:
    """Have the packages brought that the example locks; the test is skipped where they cannot be had.

    Raises:
        AssertionError: they can, but are not those of the lock, or another fault.
    """
    if missing := [tool for tool in example.tools if shutil.which(tool) is None]:
        pytest.skip(f"the example in {example.language} was not run: no {', no '.join(missing)} here")
    try:
        fetched = processes.run(example.fetch, cwd=folder)
    except processes.TimeoutExpired:
        pytest.skip(f"the example in {example.language} was not run: its packages did not come in time")
    if fetched.returncode and (reason := UNAVAILABLE.search(fetched.stderr)):
        pytest.skip(f"the example in {example.language} was not run: {reason[0].strip()}")
    assert fetched.returncode == 0, fetched.stdout + fetched.stderr


def answers(client: Client, picture: Path) -> tuple[list[tuple[str, float]], str, list[tuple[str, float]]]:
    """Labels with per cent, the label explained, and its strongest heads with logits, as the Python client has them."""
    [classification] = client.classify(picture, top_k=3)
    [explanation] = client.explain(picture, top_k=1)
    heads = [
        (f"encoder {card.encoder} head {card.head}", float(logit))
        for card, logit in zip(explanation.head_cards, explanation.heads_RJ[:, 0], strict=True)
        if not card.pruned
    ]
    return (
        [(score.label, 100 * score.probability) for score in classification.top],
        explanation.targets[0].label,
        sorted(heads, key=lambda head: -abs(head[1]))[:HEADS],
    )


def printed(lines: list[str]) -> list[tuple[str, float]]:
    """Names and numbers of lines `name: number`, with a unit or without."""
    return [(name, float(value.split()[0])) for name, value in (line.rsplit(": ", 1) for line in lines)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.language)
def test_example_says_what_the_python_client_says(
    example: Example, server: support.ServerProcess, client: Client, tmp_path: Path
) -> None:
    """Built from a copy of its folder and of the contract alone: the same labels and heads, and the same numbers."""
    folder = tmp_path / "clients" / "examples" / example.language
    shutil.copytree(ROOT / "clients" / "examples" / example.language, folder, ignore=BUILT)
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    fetch(example, folder)
    processes.run(example.build, cwd=folder, check=True)
    picture = tmp_path / "digit.png"
    picture.write_bytes(support.png(np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)))

    output = processes.run([*example.run, picture, server.address], cwd=folder, check=True).stdout

    scores, label, heads = answers(client, picture)
    lines = output.splitlines()
    assert lines[len(scores)] == f"why {label}, in logits:"
    for expected, shown, rounding in ((scores, lines[: len(scores)], 0.005), (heads, lines[len(scores) + 1 :], 5e-5)):
        names, values = zip(*printed(shown), strict=True)
        assert list(names) == [name for name, _ in expected]
        assert list(values) == pytest.approx([value for _, value in expected], rel=1e-4, abs=rounding + 1e-5)
