"""One file over HTTP: whole or not at all, and continued where it was cut off."""

from __future__ import annotations

import http.client
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from compressm._version import __version__
from compressm.data.errors import DataError
from compressm.data.lock import locked
from compressm.data.progress import progress_bar

_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a download is tried.

    Attributes:
        attempts: Times the server is asked.
        backoff: Seconds before the second attempt; doubled before each later one.
        timeout: Seconds without a byte after which an attempt has failed.
    """

    attempts: int = 5
    backoff: float = 1.0
    timeout: float = 30.0


class _Passing(Exception):
    """A failure that may be gone at the next attempt."""


def download(url: str, target: Path, *, patience: Patience, progress: bool) -> None:
    """Fetch a file unless it is there already; proxies are taken from the environment.

    What has arrived is kept as ``TARGET.part`` and continued later if the server still has the same file.
    Processes that want the same file wait for one another.

    Args:
        url: An http or https address.
        target: Where the file goes; its folder is made.
        patience: How often and how long to try.
        progress: Show a bar on a terminal.

    Raises:
        DataError: If the file cannot be fetched or written.
    """
    if not url.startswith(("http://", "https://")):
        raise DataError(f"cannot download {url}: the address must start with http:// or https://")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f"{target.name}.lock")):
            if not target.exists():
                part = target.with_name(f"{target.name}.part")
                _try(url, part, patience, progress)
                part.replace(target)
                _tag_file(part).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot download {url} to {target}: {error}") from error


def _try(url: str, part: Path, patience: Patience, progress: bool) -> None:
    for attempt in range(1, patience.attempts + 1):
        try:
            _transfer(url, part, patience.timeout, progress)
        except _Passing as failure:
            if attempt == patience.attempts:
                raise DataError(f"cannot download {url} after {attempt} attempts: {failure}") from failure
            time.sleep(patience.backoff * 2 ** (attempt - 1))
        else:
            return


def _transfer(url: str, part: Path, timeout: float, progress: bool) -> None:
    """Ask the server once; ``part`` is complete when this returns."""
    try:
        with urlopen(_request(url, part), timeout=timeout) as response:  # noqa: S310 - checked in download()
            _receive(url, response, part, progress)
    except HTTPError as error:
        with error:
            if error.code == 416:
                # What we hold is not a beginning of what the server has.
                part.unlink(missing_ok=True)
            if error.code in (408, 416, 429) or error.code >= 500:
                raise _Passing(f"{error.code} {error.reason}") from error
            raise DataError(f"cannot download {url}: {error.code} {error.reason}") from error
    except URLError as error:
        if isinstance(error.reason, TimeoutError | ConnectionResetError | ConnectionAbortedError):
            raise _Passing(str(error.reason)) from error
        raise DataError(f"cannot reach {url}: {error.reason}") from error
    except (TimeoutError, ConnectionError, http.client.HTTPException, ssl.SSLError) as error:
        raise _Passing(str(error) or type(error).__name__) from error


def _request(url: str, part: Path) -> Request:
    headers = {"User-Agent": f"compressm/{__version__}"}
    have = part.stat().st_size if part.is_file() else 0
    if have and (etag := _known_tag(url, part)):
        # If-Range: a server whose file has changed sends all of the new one.
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    return Request(url, headers=headers)  # noqa: S310 - checked in download()


def _receive(url: str, response: http.client.HTTPResponse, part: Path, progress: bool) -> None:
    continued = response.status == http.client.PARTIAL_CONTENT
    have = part.stat().st_size if continued else 0
    if continued and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        part.unlink()
        raise _Passing(f"the server sent another range than the one from byte {have}")
    length = response.headers.get("Content-Length")
    total = None if length is None else have + int(length)
    _remember_tag(url, part, response.headers.get("ETag"))
    name = part.name.removesuffix(".part")
    with (
        part.open("ab" if continued else "wb") as file,
        progress_bar(f"downloading {name}", total, show=progress, done=have, in_bytes=True) as advance,
    ):
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            have += len(chunk)
            advance(len(chunk))
    if total is not None and have != total:
        raise _Passing(f"the connection ended after {have} of {total} bytes")


def _tag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _remember_tag(url: str, part: Path, etag: str | None) -> None:
    """Keep the entity tag that lets a later attempt continue; a weak one does not vouch for the bytes."""
    if etag is None or etag.startswith("W/"):
        _tag_file(part).unlink(missing_ok=True)
    else:
        _tag_file(part).write_text(f"{url}\n{etag}\n", encoding="utf-8")


def _known_tag(url: str, part: Path) -> str | None:
    if not _tag_file(part).is_file():
        return None
    match _tag_file(part).read_text(encoding="utf-8", errors="replace").splitlines():
        case [known, etag] if known == url:
            return etag
    return None
