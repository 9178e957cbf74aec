"""What the package `headwise` offers, and when it imports it."""

import sys

import headwise
import pytest
from processes import run


@pytest.mark.parametrize("name", headwise.__all__)
def test_every_name_is_there_and_shown(name: str) -> None:
    """As if it had been imported at once."""
    assert getattr(headwise, name).__name__ == name
    assert name in dir(headwise)


def test_another_name_is_none_of_it() -> None:
    """What its modules import for themselves is not offered."""
    for name in ("np", "grpc", "Clint"):
        with pytest.raises(AttributeError, match=f"module 'headwise' has no attribute '{name}'"):
            getattr(headwise, name)


def test_bundle_format_does_not_wait_for_grpc() -> None:
    """Nor does the help of the exporter."""
    program = (
        "import sys; import headwise, headwise.bundle; assert 'grpc' not in sys.modules; "
        "import headwise_exporter.cli; assert 'grpc' not in sys.modules; headwise.Client; assert 'grpc' in sys.modules"
    )
    run([sys.executable, "-c", program], check=True)
