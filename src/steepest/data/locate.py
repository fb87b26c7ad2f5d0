"""Where data files are found: the folder in ``STEEPEST_DATA``, then the user's cache, then the network.

Every loader that reads files goes through :func:`find`, so all of them look in the same places, in the same order,
and fail with the same message. A download is checked against its SHA-256 in a temporary file, which is renamed into
the cache only when it is right; an interrupted or wrong download therefore leaves nothing behind. With
``STEEPEST_OFFLINE`` set to anything but ``0`` or nothing, the network is never tried.
"""

import gzip
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

from steepest.core.files import replacing

__all__ = [
    "ChecksumMismatch",
    "CorruptData",
    "DataNotFound",
    "Source",
    "cache_folder",
    "download",
    "find",
    "folders",
    "offline",
    "read_bytes",
]

_TIMEOUT = 30.0  # seconds without an answer before a download is given up
_CHUNK = 1 << 20


class DataNotFound(FileNotFoundError):
    """A data file that is in none of the places searched; the message lists them and says how to get the file."""


class CorruptData(ValueError):
    """A data file whose content is not what its format or its size demands; the message names the file."""


class ChecksumMismatch(CorruptData):
    """A download whose SHA-256 is not the expected one. Nothing of it is kept."""


@dataclass(frozen=True)
class Source:
    """One file of a data set.

    Args:
        names: paths relative to a data folder under which the file may lie, in the order they are tried (``/`` as
            separator).
        url: where to download it from, or ``None`` when it can only be put in place by hand.
        sha256: hexadecimal SHA-256 of what ``url`` serves; required with a ``url``.
        saved_as: relative path under which a download is cached. Default: the first of ``names``.
        hint: an extra sentence for the message when the file is missing.
    """

    names: tuple[str, ...]
    url: str | None = None
    sha256: str | None = None
    saved_as: str | None = None
    hint: str = ""

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("names must hold at least one relative path, got ()")
        if self.url is not None and self.sha256 is None:
            raise ValueError(f"sha256 must be given with url={self.url!r}: a download is never trusted unchecked")


def cache_folder() -> Path:
    """The user's cache: ``$XDG_CACHE_HOME/steepest``, ``%LOCALAPPDATA%\\steepest\\Cache`` on Windows, else
    ``~/.cache/steepest``."""
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "steepest"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "steepest" / "Cache"
    return Path.home() / ".cache" / "steepest"


def folders() -> list[Path]:
    """The folders searched, in order: ``STEEPEST_DATA`` when it is set, then the cache."""
    named = os.environ.get("STEEPEST_DATA")
    return ([Path(named).expanduser().absolute()] if named else []) + [cache_folder()]


def offline() -> bool:
    """Whether ``STEEPEST_OFFLINE`` forbids the network."""
    return os.environ.get("STEEPEST_OFFLINE", "") not in ("", "0")


def find(source: Source) -> Path:
    """The path of a data file, downloading it into the cache when it is in no folder.

    Raises:
        DataNotFound: it is nowhere; the message lists every path tried and the ways to provide it.
        ChecksumMismatch: it was downloaded and is not the expected file.
    """
    tried = [folder / name for folder in folders() for name in source.names]
    for path in tried:
        if path.is_file():
            return path
    if source.url is None:
        network = "  the network: no address is known for this file"
    elif offline():
        network = f"  {source.url}: not tried, STEEPEST_OFFLINE is set"
    else:
        assert source.sha256 is not None  # Source checks it
        try:
            return download(source.url, source.sha256, cache_folder() / (source.saved_as or source.names[0]))
        except (OSError, http.client.HTTPException) as error:
            network = f"  {source.url}: {error}"
    raise DataNotFound(_missing(source, tried, network))


def _missing(source: Source, tried: list[Path], network: str) -> str:
    name = source.names[0]
    lines = [f"data file {name!r} was not found. Looked for:", *(f"  {path}" for path in tried), network]
    if not os.environ.get("STEEPEST_DATA"):
        lines.append("STEEPEST_DATA is not set; it may name a folder that holds data files.")
    elif not folders()[0].is_dir():
        lines.append(f"STEEPEST_DATA names {str(folders()[0])!r}, which is not a folder.")
    fetch = f"download {source.url} and save it" if source.url else "save it"
    place = source.saved_as or name
    lines.append(
        f"To get it: {fetch} as {cache_folder() / place}, or as {place} in the folder that STEEPEST_DATA names."
    )
    return "\n".join([*lines, source.hint] if source.hint else lines)


def download(url: str, sha256: str, target: Path) -> Path:
    """Download ``url`` to ``target``, which appears only once its content has the SHA-256 ``sha256``.

    Raises:
        ChecksumMismatch: the content differs; nothing is left behind.
        OSError, http.client.HTTPException: the network, the server or the folder fails; nothing is left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with replacing(target) as part:
        with open(part, "wb") as out, urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            expected = answer.headers.get("Content-Length")
            received = 0
            while block := answer.read(_CHUNK):
                digest.update(block)
                out.write(block)
                received += len(block)
        if expected is not None and received != int(expected):
            raise OSError(f"the connection ended after {received} of {expected} bytes")
        if digest.hexdigest() != sha256:
            raise ChecksumMismatch(
                f"{url} has SHA-256 {digest.hexdigest()}, expected {sha256}; the download was discarded. "
                f"The file has changed at its source, or something on the way altered it."
            )
    return target


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed when it is gzip (recognised by its first two bytes, not by its name).

    Raises:
        CorruptData: the gzip stream is truncated or damaged.
    """
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise CorruptData(f"{path} is a damaged gzip file: {error}") from error
