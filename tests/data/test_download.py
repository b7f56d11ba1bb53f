import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from compressm.data import DataError, load
from compressm.data.download import Patience, download
from compressm.data.hub import hub_files
from compressm.data.source import Source

BODY = np.random.RandomState(3).bytes(200_000)
QUICK = Patience(attempts=3, backoff=0.0, timeout=10.0)


class Server(ThreadingHTTPServer):
    """Serves files and, for the first requests, what ``script`` says instead.

    Words of the script: a status code; "cut" (half of the body, then the end of the connection);
    "shifted" (a range that starts a byte too early); "moved" (a redirect to /file); "hang".
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/file": BODY}
        self.script: list[int | str] = []
        self.etag: str | None = '"one"'
        self.ranges: list[str | None] = []
        self.paths: list[str] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.paths.append(self.path)
        self.server.ranges.append(wanted)
        body = self.server.files.get(urlsplit(self.path).path)
        action = self.server.script.pop(0) if self.server.script else 200 if body is not None else 404
        if action == "hang":
            self.server.over.wait(30)
            return
        if action == "moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
            return
        if body is None or (isinstance(action, int) and action != 200):
            self.send_error(int(action))
            return
        start = 0
        if wanted and self.headers["If-Range"] == self.server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            start -= action == "shifted"
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : len(body) // 2] if action == "cut" else body[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def fetch(server: Server, tmp_path: Path) -> Callable[[], Path]:
    def run() -> Path:
        target = tmp_path / "folder" / "target"
        download(f"{server.url}/file", target, patience=QUICK, progress=False)
        return target

    return run


def leftovers(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()} - {"target", "target.lock"}


def test_a_file_arrives_whole_and_once(server: Server, fetch: Callable[[], Path]) -> None:
    assert fetch().read_bytes() == BODY
    assert leftovers(fetch()) == set()
    assert server.ranges == [None]


@pytest.mark.parametrize("script", [[500], [503, 429], ["cut"], ["cut", 500], ["cut", "cut"]])
def test_passing_failures_are_tried_again(
    script: list[int | str], server: Server, fetch: Callable[[], Path]
) -> None:
    server.script = list(script)
    target = fetch()
    assert target.read_bytes() == BODY
    assert leftovers(target) == set()
    assert len(server.ranges) == len(script) + 1


def test_a_silent_server_is_given_up_and_asked_again(server: Server, tmp_path: Path) -> None:
    server.script = ["hang"]
    patience = Patience(attempts=2, backoff=0.0, timeout=0.2)
    download(f"{server.url}/file", tmp_path / "target", patience=patience, progress=False)
    assert (tmp_path / "target").read_bytes() == BODY


def test_failures_that_stay_end_in_one_error(
    server: Server, fetch: Callable[[], Path], tmp_path: Path
) -> None:
    server.script = [500, 502, 503]
    with pytest.raises(DataError, match="after 3 attempts: 503"):
        fetch()
    server.script = ["cut"] * 3
    with pytest.raises(DataError, match=r"after 3 attempts: .* ended after 100000 of 200000 bytes"):
        fetch()
    assert not (tmp_path / "folder" / "target").exists()


def test_what_is_not_there_is_not_asked_for_again(server: Server, fetch: Callable[[], Path]) -> None:
    server.files = {}
    with pytest.raises(DataError, match=r"cannot download http://127.*/file: 404"):
        fetch()
    assert len(server.ranges) == 1


def test_a_later_run_continues_where_the_first_was_cut_off(
    server: Server, fetch: Callable[[], Path], tmp_path: Path
) -> None:
    server.script = ["cut", 500, 500]
    with pytest.raises(DataError):
        fetch()
    part = tmp_path / "folder" / "target.part"
    assert part.read_bytes() == BODY[:100_000]
    assert fetch().read_bytes() == BODY
    assert server.ranges[-1] == "bytes=100000-"


def test_a_download_behind_a_redirect_continues_too(server: Server, tmp_path: Path) -> None:
    server.script = ["moved", "cut", "moved"]
    download(f"{server.url}/link", tmp_path / "target", patience=QUICK, progress=False)
    assert (tmp_path / "target").read_bytes() == BODY
    assert server.ranges == [None, None, "bytes=100000-", "bytes=100000-"]


@pytest.mark.parametrize("etag", ['"two"', 'W/"weak"', None])
def test_a_file_that_may_have_changed_is_fetched_from_its_start(
    etag: str | None, server: Server, fetch: Callable[[], Path]
) -> None:
    server.etag = etag
    server.script = ["cut", 500, 500]
    with pytest.raises(DataError):
        fetch()
    server.etag = '"three"'
    server.files = {"/file": BODY[::-1]}
    assert fetch().read_bytes() == BODY[::-1]
    assert server.ranges[-1] == ("bytes=100000-" if etag == '"two"' else None)


def test_the_beginning_of_another_address_is_not_continued(server: Server, tmp_path: Path) -> None:
    server.files["/other"] = BODY[::-1]
    server.script = ["cut", 500, 500]
    with pytest.raises(DataError):
        download(f"{server.url}/file", tmp_path / "target", patience=QUICK, progress=False)
    download(f"{server.url}/other", tmp_path / "target", patience=QUICK, progress=False)
    assert (tmp_path / "target").read_bytes() == BODY[::-1]


def test_another_range_than_the_one_asked_for_is_refused(server: Server, fetch: Callable[[], Path]) -> None:
    server.script = ["cut", "shifted"]
    assert fetch().read_bytes() == BODY
    assert server.ranges == [None, "bytes=100000-", None]


def test_a_part_longer_than_the_file_is_dropped(
    server: Server, fetch: Callable[[], Path], tmp_path: Path
) -> None:
    server.script = ["cut", 500, 500]
    with pytest.raises(DataError):
        fetch()
    with (tmp_path / "folder" / "target.part").open("ab") as file:
        file.write(BODY)
    assert fetch().read_bytes() == BODY
    assert server.ranges[-2:] == ["bytes=300000-", None]


def test_two_at_once_share_one_download(server: Server, fetch: Callable[[], Path]) -> None:
    arrived: list[bytes] = []
    threads = [threading.Thread(target=lambda: arrived.append(fetch().read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert arrived == [BODY] * 4
    assert len(server.ranges) == 1


def test_a_proxy_of_the_environment_is_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setattr("urllib.request._opener", None)  # made anew with the proxies of this test
    download("http://data.invalid/file", tmp_path / "target", patience=QUICK, progress=False)
    assert (tmp_path / "target").read_bytes() == BODY
    assert server.paths == ["http://data.invalid/file"]


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"file:///etc/hosts: the address must start with http"):
        download("file:///etc/hosts", tmp_path / "target", patience=QUICK, progress=False)


def test_a_folder_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot download .* to .*file.folder.target"):
        download(
            f"{server.url}/file", tmp_path / "file" / "folder" / "target", patience=QUICK, progress=False
        )


def test_the_hubs_addresses_and_places(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/mirror/")
    server.files = {f"/mirror/datasets/owner/name/resolve/v2/{name}": BODY for name in ("a", "sub/b")}
    paths = hub_files("owner/name", ["a", "sub/b"], Source(progress=False), revision="v2", patience=QUICK)
    folder = tmp_path / "cache" / "hub" / "owner--name" / "v2"
    assert paths == [folder / "a", folder / "sub" / "b"]
    assert [path.read_bytes() for path in paths] == [BODY, BODY]
    assert hub_files("owner/name", ["a"], Source(download=False), revision="v2") == paths[:1]


def test_mnist_comes_from_the_hub_once(
    server: Server,
    mnist_folder: Path,
    pixels: dict[str, tuple[np.ndarray, np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.files = {
        f"/datasets/ylecun/mnist/resolve/main/mnist/{path.name}": path.read_bytes()
        for path in (mnist_folder / "mnist").iterdir()
    }
    for _ in range(2):
        splits = load("smnist")
        assert np.array_equal(splits.test.inputs.reshape(-1, 28, 28), pixels["test"][0])
    assert len(server.paths) == 2


def test_without_a_network_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(DataError, match=r"cannot reach .*train-00000-of-00001\.parquet .*as --data-dir"):
        load("smnist")
    with pytest.raises(DataError, match=r"downloads are switched off; .* --data-dir"):
        load("smnist", download=False)
