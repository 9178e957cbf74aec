"""What exporter and server make of a folder of files."""

import json
import os
import signal
from pathlib import Path

import image_corpus
import support
from PIL import Image

RECORD = json.loads((Path(__file__).parents[2] / "results/image_corpus.json").read_text("utf-8"))


def test_files_are_counted_by_what_came_of_them(tmp_path: Path) -> None:
    """Equal pixels, and refusals grouped by reason; recorded with the keys of results/image_corpus.json."""
    folder = tmp_path / "images" / "deep"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.jpg", "c.gif"):
        Image.new("RGB", (9, 7), (200, 10, 10)).save(folder / name)
    for name in ("d.txt", "e.txt"):
        (folder / name).write_text("no image")
    (folder / "f.png").write_bytes((folder / "a.png").read_bytes()[:40])
    record_path = tmp_path / "record.json"
    done = support.script(image_corpus.main, tmp_path / "images", "--json", record_path, "--processes", "1")
    assert done.exit_code == 0, done.output
    record = json.loads(record_path.read_text("utf-8"))
    assert set(record) == set(RECORD) - {"archive", "archive_sha256"}
    assert [record[outcome] for outcome in image_corpus.OUTCOMES] == [3, 3, 0, 0]
    assert [row["files"] for row in record["reasons"]] == [2, 1]
    assert "3 equal, 3 refused" in done.output


def test_process_that_ends_or_hangs_is_a_crash_and_not_the_end(tmp_path: Path) -> None:
    """The next file is compared by a new process."""
    image = tmp_path / "a.png"
    Image.new("RGB", (9, 7)).save(image)
    child = image_corpus.Child(seconds=support.LONG_SECONDS, memory_mib=4096)
    try:
        child.process.kill()
        child.process.join()
        assert child.compare(image).outcome == "crashed"
        assert child.compare(image).outcome == "equal"
        assert child.process.pid is not None
        os.kill(child.process.pid, signal.SIGSTOP)
        child.seconds = 0.1
        assert child.compare(image) == image_corpus.Result("crashed", "took more than 0.1 seconds")
    finally:
        child.stop()
