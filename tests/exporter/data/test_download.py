"""Downloads from a server on the loopback."""

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import support
from headwise_exporter.data import cifar100, flowers102
from headwise_exporter.data.base import DatasetError, DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.data.download import RemoteFile, download, fetch, unpack
from headwise_exporter.progress import silent

CONTENT = bytes(range(256)) * 20_000  # five million bytes


@dataclass
class Server:
    """Files to serve, and the requests: path and range."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    breaks_after: int | None = None  # bytes, then the connection ends
    knows_ranges: bool = True

    def remote(self, name: str, content: bytes) -> RemoteFile:
        """Serve a file."""
        self.files[f"/{name}"] = content
        return RemoteFile(f"{self.address}/{name}", hashlib.md5(content).hexdigest())


@pytest.fixture
def server() -> Iterator[Server]:
    """A web server in a thread."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            served.requests.append((self.path, wanted))
            content = served.files.get(self.path)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and served.knows_ranges else 0
            if content is None or start >= max(1, len(content)):
                self.send_error(404 if content is None else 416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = None if served.breaks_after is None else start + served.breaks_after
            self.wfile.write(content[start:end])

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        served = Server(f"http://127.0.0.1:{running.server_port}")
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield served
        running.shutdown()
        thread.join()


def test_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    """The second time it is there already."""
    remote = server.remote("a.bin", CONTENT)
    for _ in range(2):
        assert [path.read_bytes() for path in fetch([remote], tmp_path / "data", silent)] == [CONTENT]
    assert server.requests == [("/a.bin", None)]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["a.bin"]


def test_file_put_there_by_hand_is_taken(server: Server, tmp_path: Path) -> None:
    """Whoever has no network copies it."""
    (tmp_path / "a.bin").write_bytes(CONTENT)
    fetch([server.remote("a.bin", CONTENT)], tmp_path, silent)
    assert server.requests == []


def test_broken_download_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    """After a broken connection only the rest is asked for."""
    remote = server.remote("a.bin", CONTENT)
    server.breaks_after = 3_000_000
    with pytest.raises(DatasetError, match=r"the connection ended after 3,000,000 of 5,120,000 bytes. Run again to"):
        fetch([remote], tmp_path, silent)
    server.breaks_after = None
    (path,) = fetch([remote], tmp_path, silent)
    assert path.read_bytes() == CONTENT
    assert server.requests == [("/a.bin", None), ("/a.bin", "bytes=3000000-")]
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    """What was fetched is then thrown away, not doubled."""
    remote = server.remote("a.bin", CONTENT)
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1000])
    server.knows_ranges = False
    (path,) = fetch([remote], tmp_path, silent)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [CONTENT, CONTENT + b"more"])
def test_part_as_long_as_the_file_is_fetched_again(server: Server, tmp_path: Path, stale: bytes) -> None:
    """A server that has nothing to add makes the download start over."""
    remote = server.remote("a.bin", CONTENT)
    (tmp_path / "part").write_bytes(stale)
    download(remote.url, tmp_path / "part", silent)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert [content_range is None for _, content_range in server.requests] == [False, True]


def test_wrong_checksum_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    """A file that is not the official one does not stay."""
    remote = RemoteFile(server.remote("a.bin", b"forged").url, hashlib.md5(CONTENT).hexdigest())
    with pytest.raises(DatasetError, match=r"cannot fetch .*a.bin: .*[Hh]ash"):
        fetch([remote], tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


def test_refusal_says_how_to_do_without(server: Server, tmp_path: Path) -> None:
    """Every file with its address and checksum, and the folder to put them into."""
    gone = [RemoteFile(f"{server.address}/{name}", md5="0" * 32) for name in ("a.tgz", "b.mat")]
    with pytest.raises(DatasetError) as caught:
        fetch(gone, tmp_path / "data", silent)
    message = str(caught.value)
    assert "cannot fetch" in message
    assert "404" in message
    assert f"put these files into {tmp_path / 'data'} yourself" in message
    for file in gone:
        assert f"{file.url} (md5 {file.md5})" in message


def archive(**files: bytes) -> bytes:
    """A .tar.gz with these files in the folder `top`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"top/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_archive_becomes_a_folder(tmp_path: Path) -> None:
    """Its top folder's content, under the name asked for."""
    (tmp_path / "a.tgz").write_bytes(archive(train=b"1", test=b"2"))
    bars = support.Bars()
    unpack(tmp_path / "a.tgz", tmp_path / "data", bars.open)
    assert [(bar.unit, bar.done) for bar in bars] == [("files", 2)]
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == {"train": b"1", "test": b"2"}


@pytest.mark.parametrize("name", ["../../escaped", "x/../../../escaped"])
def test_archive_that_would_leave_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    """Nothing is written outside, and nothing is left of it."""
    (tmp_path / "a.tgz").write_bytes(archive(**{name: b"x"}))
    with pytest.raises(DatasetError, match="cannot unpack"):
        unpack(tmp_path / "a.tgz", tmp_path / "inner" / "data", silent)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tgz", "inner"]


def test_truncated_archive_is_refused(tmp_path: Path) -> None:
    """Half an archive leaves no half a folder."""
    (tmp_path / "a.tgz").write_bytes(archive(train=CONTENT)[:-400])
    with pytest.raises(DatasetError, match=r"cannot unpack .*a.tgz"):
        unpack(tmp_path / "a.tgz", tmp_path / "data", silent)
    assert not (tmp_path / "data").exists()


def test_cifar_is_fetched_into_the_data_folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive is unpacked where torchvision would look; its content is then read."""
    remote = server.remote("cifar-100-python.tar.gz", archive(train=b"x", test=b"x", meta=b"x"))
    monkeypatch.setattr(cifar100, "ARCHIVE", remote)
    with pytest.raises(DatasetError, match=r"data/cifar-100-python/train is not a file of CIFAR-100"):
        load(DatasetSettings("cifar100", data_dir=str(tmp_path / "data")))
    assert (tmp_path / "data" / "cifar-100-python" / "meta").read_bytes() == b"x"


def test_flowers_are_fetched_into_the_cache(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a data folder: into the cache; only what is missing is asked for."""
    for name, content in (("PHOTOGRAPHS", archive(a=b"x")), ("LABELS", b"x"), ("SETS", b"x")):
        file_name = getattr(flowers102, name).name
        monkeypatch.setattr(flowers102, name, server.remote(file_name, content))
    folder = cache / "data" / "flowers-102"
    folder.mkdir(parents=True)
    (folder / "setid.mat").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"setid.mat|imagelabels.mat: expected a MATLAB file"):
        load(DatasetSettings("flowers102"))
    assert [path for path, _ in server.requests] == ["/imagelabels.mat", "/102flowers.tgz"]
    assert (folder / "jpg" / "a").is_file()
