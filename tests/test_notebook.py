"""The notebook runs from its first cell to its last."""

import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from processes import run

NOTEBOOK = Path(__file__).parents[1] / "examples" / "explain.ipynb"


@pytest.mark.timeout(900)
def test_notebook_goes_from_a_folder_of_photos_to_maps(tmp_path: Path) -> None:
    """Every cell; what it shows is the picture, the parts of the answer, maps that add up, and falls."""
    copy = shutil.copy(NOTEBOOK, tmp_path)
    run([Path(sys.executable).with_name("jupyter-execute"), "--inplace", copy], check=True, cwd=tmp_path)
    cells = nbformat.read(copy, as_version=4).cells
    shown = "\n".join(str(output) for cell in cells for output in cell.get("outputs", []))
    for expected in (
        "data:image/jpeg;base64,",
        "recognises over the data set",
        "its map adds up to",
        "rank correlation",
    ):
        assert expected in shown
