"""The documentation: its Python runs, its commands name options that exist, its links and files are there."""

import re
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import support
import typer
import yaml
from headwise.commands import app as client_app
from headwise_exporter.commands.app import app as exporter_app
from headwise_server import settings
from headwise_server.commands import app as server_app
from headwise_server.settings import Settings
from PIL import Image

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*DOCS, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"))]
PYTHON = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in DOCS
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL))
]
COMMANDS: dict[str, Any] = {  # typer brings a click of its own
    "exporter": typer.main.get_command(exporter_app),
    "headwise": typer.main.get_command(client_app),
    "headwise-server": typer.main.get_command(server_app),
}
FOLDERS = ("benchmarks", "clients", "docs", "experiments", "exporter", "proto", "scripts", "server", "tests")


def name_of(page: Path) -> str:
    """The page's path in the repository, which names its test."""
    return page.relative_to(ROOT).as_posix()


def lines_of_code(text: str) -> list[str]:
    """Lines of shell blocks, fenced or indented, and spans of inline code; a line that ends in a backslash goes on."""
    fenced = re.findall(r"```(?:sh)?\n(.*?)```", text, re.DOTALL)
    indented = re.findall(r"(?:^ {4}.*\n)+", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    blocks = "\n".join(fenced + indented).replace("\\\n", " ")
    inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [" ".join(line.split()) for line in [*blocks.splitlines(), *inline]]


def commands_of(page: Path) -> list[list[str]]:
    """The words of each command of ours that a page shows, whatever stands before it on the line."""
    commands = []
    for line in lines_of_code(page.read_text("utf-8")):
        match = re.match(rf"(?:.*-- )?((?:{'|'.join(COMMANDS)}) .*)", line)
        if match and "→" not in line:
            commands.append(shlex.split(match[1], comments=True))
    return commands


def unknown_words(words: list[str]) -> list[str]:
    """Options, and a subcommand, that the program does not have."""
    program, *arguments = words
    command = COMMANDS[program]
    if hasattr(command, "commands"):
        if arguments[0].startswith("-"):
            return [word for word in arguments if word != "--help"]
        if arguments[0] not in command.commands:
            return [f"{program} {arguments[0]}"]
        command, arguments = command.commands[arguments[0]], arguments[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    return [option for option in given if option not in known | {"--help"}]


@pytest.mark.parametrize("block", PYTHON)
def test_python_block_runs(
    block: str, server: support.ServerProcess, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder with a bundle and a picture, against a server that runs."""
    monkeypatch.chdir(tmp_path)
    Path("models").symlink_to(repository)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("digit.png")
    code = block.replace("localhost:50051", server.address)
    if "tritonclient" in code:  # whose stubs have the names of the server's, which this process has imported
        processes.run([sys.executable, "-c", code], check=True)
    else:
        exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_name_options_that_exist(page: Path) -> None:
    """Every command of ours that a page shows has that subcommand and those options."""
    unknown = {" ".join(words): options for words in commands_of(page) if (options := unknown_words(words))}
    assert not unknown


def test_commands_of_the_pages_are_seen() -> None:
    """The check above looks at something: fenced, indented and inline commands, and one behind torchrun."""
    seen = [" ".join(words) for page in DOCS for words in commands_of(page)]
    for expected in ("headwise-server --repository models", "exporter build --dataset cifar100", "exporter recipes"):
        assert expected in seen
    assert unknown_words(["exporter", "build", "--colour", "red"]) == ["--colour"]
    assert unknown_words(["headwise", "paint"]) == ["headwise paint"]


def test_server_options_are_those_of_the_settings() -> None:
    """The table of docs/serving.md is made of their declaration."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else "" if field.default is None else f"`{field.default}`"
        meaning = (field.description or "").replace("<", "&lt;")
        rows.append(f"| `{settings.option(name)}` | {meaning} | {default} | {settings.values(field)} |")
    table = "\n".join(rows)
    assert table in (ROOT / "docs/serving.md").read_text("utf-8"), f"expected this table:\n{table}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    """Every relative link; what they look like on the site is for scripts/docs to check."""
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text("utf-8"))
    generated = {ROOT / "docs/contributing.md", ROOT / "docs/changelog.md"}
    targets = [(page.parent / link).resolve() for link in links]
    assert [target for target in targets if not target.exists() and target not in generated] == []


def test_paths_in_contributing_are_there() -> None:
    """Every file and folder that it names, but for those with a name to fill in."""
    spans = re.findall(r"`([^`\s]+)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    paths = [span for span in spans if span.split("/")[0] in FOLDERS and "/" in span and "NAME" not in span]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_page_is_in_the_navigation() -> None:
    """mkdocs.yml names every page."""
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert [name for page in DOCS if (name := page.relative_to(ROOT / "docs").as_posix()) not in text] == []


def test_citation_is_of_this_version() -> None:
    """CITATION.cff parses and says which version it cites; the papers have their arXiv numbers."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == version("headwise")
    papers = {reference["identifiers"][0]["value"] for reference in citation["references"]}
    assert papers == {"arXiv:2501.12900", "arXiv:2501.12880", "arXiv:2104.05704"}


def test_changelog_has_a_place_for_what_comes_next() -> None:
    """In the form of Keep a Changelog."""
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "\n## [Unreleased]\n" in changelog
    assert set(re.findall(r"^### (.*)$", changelog, re.MULTILINE)) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }


def test_workflow_calls_the_scripts_of_the_repository() -> None:
    """CI and a developer run the same commands, on every Python that the package says it supports."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    for script in ("scripts/check", "scripts/test", "scripts/docs"):
        assert script in steps
    versions = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text("utf-8"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == versions
