"""Files from the web: a real server, and nothing of this machine or its net is reached."""

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from avchat.media import MediaError, probe
from avchat.ui import from_url
from avchat.ui.from_url import UrlError, fetch_url, is_public

Place = tuple[str, int]


class Handler(BaseHTTPRequestHandler):
    """Serves one clip, and everything that can go wrong."""

    clip = b""
    asked: list[tuple[str, str]] = []  # hosts and paths

    def do_GET(self) -> None:
        """Answer by the path."""
        self.asked.append((self.headers["Host"], self.path))
        name = self.path.strip("/").partition("?")[0]
        if name.startswith("to/"):
            self.answer(302, {"Location": self.path[4:]})
        elif name == "round":
            self.answer(302, {"Location": "/round"})
        elif name == "404":
            self.answer(404, {})
        elif name == "page":
            self.answer(200, {"Content-Type": "text/html"}, b"<!doctype html><p>Sign in</p>")
        elif name == "packed":
            self.answer(200, {"Content-Encoding": "gzip"}, b"xx")
        elif name == "short":
            self.answer(200, {"Content-Length": "100000"}, self.clip[:1000])
        elif name == "endless":
            self.drip(self.clip[:1000], 100_000, 0)
        elif name == "slow":
            self.drip(b"x", 1000, 0.05)
        elif name == "silent":
            time.sleep(3)
        elif name == "liar":
            self.answer(200, {"Content-Length": "99999999999"}, b"x")
        else:
            self.answer(200, {"Content-Type": "video/mp4"}, self.clip)

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        """Send an answer at once."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def drip(self, piece: bytes, times: int, pause_s: float) -> None:
        """Send a piece again and again, without a length, until the other side has gone."""
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(times):
                self.wfile.write(piece)
                time.sleep(pause_s)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def served(clip: Path, certificate: Path | None = None) -> Iterator[int]:
    """Serve on loopback; give the port."""
    Handler.clip, Handler.asked = clip.read_bytes(), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def port(clip: Path) -> Iterator[int]:
    """A server for all tests."""
    with served(clip) as port:
        yield port


def fetch(port: int, path: str, folder: Path, **more: object) -> Path | None:
    """Fetch from the server, which is allowed for once."""
    limits = {"max_bytes": 10_000_000, "timeout_s": 20, "allow": frozenset({("127.0.0.1", port)})}
    return fetch_url(f"http://127.0.0.1:{port}/{path}", folder, **limits | more)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1"]
    + ["169.254.169.254", "192.0.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"]
    + ["::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1"]
    + ["::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::808:808", "::7f00:1"]
    + ["2002:7f00:1::", "2001:0:808:808::1", "2001:db8::1", "no address", ""],
)
def test_addresses_inside(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:2800:220:1::1"])
def test_addresses_outside(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "0", "[::1]", "[::ffff:127.0.0.1]"],
)
def test_loopback_by_any_name_is_refused(host: str, port: int, tmp_path: Path) -> None:
    Handler.asked.clear()
    for number in (port, 80):
        with pytest.raises(UrlError, match="not a public one|no such server"):
            fetch_url(f"http://{host}:{number}/a.mp4", tmp_path, max_bytes=10**6)
    assert Handler.asked == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///etc/passwd", "begins with http"),
        ("ftp://example.org/a.mp4", "begins with http"),
        ("/etc/passwd", "begins with http"),
        ("http://", "begins with http"),
        ("http://me:secret@127.0.0.1/", "a name and a password"),
        ("http://127.0.0.1:99999/", "not an address"),
        ("http://[::1/", "not an address"),
        (f"http://{'a' * 70}.org/", "not an address"),
        ("http://a b/", "no such server"),
        ("http://8.8.8.8:22/", "not a public one"),
    ],
)
def test_what_is_no_address_of_the_web(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UrlError, match=said) as raised:
        fetch_url(url, tmp_path, max_bytes=10**6)
    assert "\n" not in str(raised.value)


def test_a_clip_comes_whole_and_can_be_used(port: int, clip: Path, tmp_path: Path) -> None:
    told: list[tuple[float, float]] = []
    path = fetch(port, "films/my%20clip.mp4?x=1", tmp_path, progress=lambda *how: told.append(how))
    assert path == tmp_path / "my clip.mp4" and path.read_bytes() == clip.read_bytes()
    assert probe(path).has_video
    size = clip.stat().st_size
    assert told[-1] == (size, size)
    assert fetch(port, "", tmp_path) == tmp_path / "clip.mp4"
    assert fetch(port, "..%2f..%2f.bash%0a%00rc", tmp_path).parent == tmp_path
    assert fetch(port, "a" * 300 + ".mp4", tmp_path).name == "a" * 80 + ".mp4"


def test_redirects_are_followed_and_each_is_checked(port: int, clip: Path, tmp_path: Path) -> None:
    here = f"http://127.0.0.1:{port}"
    assert fetch(port, "to//a.mp4", tmp_path).read_bytes() == clip.read_bytes()
    assert fetch(port, f"to/{here}/to/{here}/to/{here}/b.mp4", tmp_path).name == "b.mp4"
    with pytest.raises(UrlError, match="more than 3 times"):
        fetch(port, "round", tmp_path)
    inside = ["http://169.254.169.254/latest/meta-data", "http://127.0.0.2/", "http://[::1]/"]
    for target in inside:
        with pytest.raises(UrlError, match="not a public one"):
            fetch(port, f"to/{target}", tmp_path)
    with pytest.raises(UrlError, match="begins with http"):
        fetch(port, "to/file:///etc/passwd", tmp_path)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("404", "answers 404: not found"),
        ("packed", "not understood"),
        ("short", "broke off"),
        ("liar", "larger than the limit of 10 MB"),
        ("endless", "larger than the limit of 10 MB"),
    ],
)
def test_what_a_server_does_wrong(path: str, said: str, port: int, tmp_path: Path) -> None:
    with pytest.raises(UrlError, match=said):
        fetch(port, path, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["slow", "silent"])
def test_a_slow_server_is_left_and_a_visitor_may_stop(path: str, port: int, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UrlError, match="takes too long"):
        fetch(port, path, tmp_path, timeout_s=0.5)
    assert time.monotonic() - began < 2.5
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    assert fetch(port, path, tmp_path, stop=stop) is None
    assert time.monotonic() - began < 2.9 and list(tmp_path.iterdir()) == []


def test_nobody_answers(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UrlError, match="refuses the connection"):
        fetch(port, "a.mp4", tmp_path)


def test_a_page_is_fetched_and_then_refused_as_no_film(port: int, tmp_path: Path) -> None:
    path = fetch(port, "page", tmp_path)
    assert path.name == "page.html"
    with pytest.raises(MediaError, match="this is text"):
        probe(path)


def test_a_name_is_looked_up_once_and_all_its_addresses_count(
    port: int, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no name server to answer twice here, so its answers are given."""
    answers = [["127.0.0.1"], ["10.0.0.1"]]
    looked: list[str] = []

    def answer(host: str, port: int, **_: object) -> list[tuple]:
        looked.append(host)
        return [(socket.AF_INET, 1, 6, "", (one, port)) for one in answers.pop(0)]

    monkeypatch.setattr(from_url.socket, "getaddrinfo", answer)
    more = {"max_bytes": 10**7, "allow": frozenset({("127.0.0.1", port)})}
    url = f"http://b\u00fccher.example:{port}/a.mp4"
    assert fetch_url(url, tmp_path, **more).read_bytes() == clip.read_bytes()
    assert looked == ["xn--bcher-kva.example"]
    assert Handler.asked[-1] == (f"xn--bcher-kva.example:{port}", "/a.mp4")
    with pytest.raises(UrlError, match="not a public one"):
        fetch_url(url, tmp_path, **more)
    answers.append(["127.0.0.1", "192.168.0.1"])  # one good address does not excuse another
    with pytest.raises(UrlError, match="not a public one"):
        fetch_url(url, tmp_path, **more)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_a_certificate_must_be_of_the_name(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = tmp_path / "server.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    make += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    make += ["-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    folder = tmp_path / "got"
    folder.mkdir()
    with served(clip, certificate) as port:
        more = {"max_bytes": 10**7, "allow": frozenset({("127.0.0.1", port), ("::1", port)})}
        url = f"https://localhost:{port}/a.mp4"
        with pytest.raises(UrlError, match="certificate is not valid"):
            fetch_url(url, folder, **more)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetch_url(url, folder, **more).read_bytes() == clip.read_bytes()
        with pytest.raises(UrlError, match="certificate is not valid"):
            fetch_url(url.replace("localhost", "127.0.0.1"), folder, **more)
