"""Finding files: order of the places, messages, downloads that leave nothing behind."""

import functools
import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from steepest.data.locate import ChecksumMismatch, CorruptData, DataNotFound, Source, cache_folder, find, read_bytes

CONTENT = b"some data\n" * 1000
SHA = hashlib.sha256(CONTENT).hexdigest()


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def files_under(path: Path) -> list[Path]:
    return [p for p in path.rglob("*") if p.is_file()]


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/short":  # promises more than it sends
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT) + 5))
            self.end_headers()
            self.wfile.write(CONTENT)
        else:
            super().do_GET()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    put(tmp_path / "www" / "a.bin")
    monkeypatch.delenv("STEEPEST_OFFLINE")
    monkeypatch.delenv("STEEPEST_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(_Handler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_the_named_folder_comes_before_the_cache(folder: Path, cache: Path) -> None:
    cached = put(cache / "x" / "a.bin")
    source = Source(("x/a.bin.gz", "x/a.bin"))
    assert find(source) == cached
    named = put(folder / "x" / "a.bin")
    assert find(source) == named
    assert find(Source(("x/a.bin",))) == named


def test_download_goes_to_the_cache_once(server: str, cache: Path, tmp_path: Path) -> None:
    source = Source(("x/a.bin.gz", "x/a.bin"), url=f"{server}/a.bin", sha256=SHA, saved_as="x/a.bin")
    path = find(source)
    assert path == cache / "x" / "a.bin"
    assert path.read_bytes() == CONTENT
    (tmp_path / "www" / "a.bin").unlink()
    assert find(source) == path  # from the cache: the server has it no more
    assert files_under(cache) == [path]


def test_file_url(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEEPEST_OFFLINE")
    origin = put(tmp_path / "origin.bin")
    assert find(Source(("x/a.bin",), url=origin.as_uri(), sha256=SHA)).read_bytes() == CONTENT


def test_wrong_checksum_leaves_nothing(server: str, cache: Path) -> None:
    source = Source(("x/a.bin",), url=f"{server}/a.bin", sha256="0" * 64)
    with pytest.raises(ChecksumMismatch, match=f"a.bin has SHA-256 {SHA}, expected {'0' * 64}"):
        find(source)
    assert files_under(cache) == []


@pytest.mark.parametrize(("page", "reason"), [("short", "10000 of 10005 bytes"), ("absent", "404")])
def test_broken_download_is_reported_and_leaves_nothing(server: str, cache: Path, page: str, reason: str) -> None:
    with pytest.raises(DataNotFound, match=reason) as caught:
        find(Source(("x/a.bin",), url=f"{server}/{page}", sha256=SHA))
    assert f"{server}/{page}" in str(caught.value)
    assert files_under(cache) == []


def test_missing_file_says_where_it_looked_and_what_to_do(folder: Path, cache: Path) -> None:
    source = Source(("x/a.gz", "x/a"), url="https://example.invalid/a", sha256=SHA, saved_as="x/a", hint="Or bake it.")
    with pytest.raises(DataNotFound) as caught:
        find(source)
    message = str(caught.value)
    for path in (folder / "x" / "a.gz", folder / "x" / "a", cache / "x" / "a.gz", cache / "x" / "a"):
        assert str(path) in message
    assert "https://example.invalid/a: not tried, STEEPEST_OFFLINE is set" in message
    assert f"download https://example.invalid/a and save it as {cache / 'x' / 'a'}" in message
    assert "STEEPEST_DATA" in message
    assert message.endswith("Or bake it.")


def test_missing_file_tells_of_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STEEPEST_DATA", raising=False)
    with pytest.raises(DataNotFound, match="STEEPEST_DATA is not set"):
        find(Source(("x/a",)))
    monkeypatch.setenv("STEEPEST_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataNotFound, match="nowhere', which is not a folder"):
        find(Source(("x/a",)))


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "xdg" / "steepest"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "steepest"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "steepest" / "Cache"


def test_a_url_needs_a_checksum() -> None:
    with pytest.raises(ValueError, match="sha256 must be given"):
        Source(("a",), url="https://example.invalid/a")


def test_gzip_is_recognised_by_content(tmp_path: Path) -> None:
    zipped = gzip.compress(CONTENT)
    assert read_bytes(put(tmp_path / "plain_name", zipped)) == CONTENT
    assert read_bytes(put(tmp_path / "a.gz", CONTENT)) == CONTENT
    for name, damaged in (("short.gz", zipped[:-20]), ("bits.gz", zipped[:20] + b"\xff\xff\xff" + zipped[23:])):
        with pytest.raises(CorruptData, match=rf"{name} is a damaged gzip file"):
            read_bytes(put(tmp_path / name, damaged))
