"""What every command does alike."""

import pytest
import typer
from headwise_exporter.commands.shared import clear_errors
from headwise_exporter.errors import ExporterError


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ExporterError("no [such] run"), 1, "exporter: no [such] run\n"),
        (PermissionError(13, "Permission denied", "/a/b"), 1, "exporter: /a/b: Permission denied. Run as a user who"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on where this one stopped\n"),
    ],
)
def test_error_is_one_line_and_an_exit_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a traceback."""
    with pytest.raises(typer.Exit) as left, clear_errors():
        raise error
    printed = capsys.readouterr().err
    assert left.value.exit_code == status
    assert printed.startswith(line)
    assert printed.count("\n") == 1
