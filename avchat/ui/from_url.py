"""An address of the web -> a file here; for visitors who may be anybody, so that nothing inside can
be reached through this machine.

The name is resolved once, every address that it has must be a public one, and the connection goes
to one of those: a second answer of the name server cannot lead elsewhere. Redirects are followed by
hand, each checked in the same way. Size and time are counted here, whatever the server claims.
"""

import http.client
import ipaddress
import mimetypes
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from avchat.writing import fresh

PORTS = {80, 443, 8080, 8443}  # of web servers; others are no business of a visitor
REDIRECTS = 3
MOVED = {301, 302, 303, 307, 308}
PIECE = 1 << 16
QUIET_S = 20.0  # no server may be silent for longer
GLANCE_S = 0.1  # between two looks at whether to stop
MAX_NAME = 80  # characters
UNICAST = ipaddress.ip_network("2000::/3")  # all of IPv6 that is given out for public use
NAMED = "%/:=&?~+!$,;'@()*[]"  # what may stand in a path and a query besides letters and digits

Place = tuple[str, int]  # an address and a port


class UrlError(ValueError):
    """Why a file cannot be fetched: one line for people, which names no address of this machine."""


class Stopped(Exception):
    """The visitor stopped it."""


@dataclass
class Order:
    """One file that is to be fetched, and within which limits."""

    max_bytes: int
    limit: float  # of time.monotonic()
    stop: threading.Event
    progress: Callable[[float, float], None]
    allow: frozenset[Place]
    sockets: list[socket.socket] = field(default_factory=list)  # open ones

    def check(self) -> None:
        """Raise Stopped, or UrlError where the time is over."""
        if self.stop.is_set():
            raise Stopped
        if time.monotonic() >= self.limit:
            raise UrlError("this address takes too long to answer")


def fetch_url(
    url: str,
    folder: Path,
    *,
    max_bytes: int,
    timeout_s: float = 120,
    progress: Callable[[float, float], None] | None = None,
    stop: threading.Event | None = None,
    allow: frozenset[Place] = frozenset(),
) -> Path | None:
    """Fetch a file by http or https into a folder, under a safe name, and return its path.

    `progress` hears how many bytes of how many have come (of 0, where the server does not say).
    None when `stop` was set. Raises UrlError for an address that is not public, a server that does
    not give the file, more than `max_bytes`, or longer than `timeout_s`; then no file is left.
    What it holds is not looked at: `probe` does. `allow` is for tests: addresses and ports that are
    taken without a check.
    """
    order = Order(
        max_bytes,
        time.monotonic() + timeout_s,
        stop or threading.Event(),
        progress or (lambda done, total: None),
        allow,
    )
    try:
        with watched(order):
            return follow(url.strip(), Path(folder), order)
    except Stopped:
        return None
    except (http.client.HTTPException, OSError, ValueError) as error:
        try:
            order.check()  # the connection was cut because of one of these
        except Stopped:
            return None
        if isinstance(error, UrlError):
            raise
        reason = reason_of(error.__cause__ or error)  # `fresh` wraps what stops the writing
        raise UrlError(f"this address cannot be read: {reason}") from error


def reason_of(error: BaseException) -> str:
    """Say in a few words what went wrong on the way, without an address of ours."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not valid"
    if isinstance(error, TimeoutError):
        return "it does not answer"
    if isinstance(error, ConnectionError):
        return "it refuses the connection or breaks it off"
    return "its answer is not understood"


@contextmanager
def watched(order: Order) -> Iterator[None]:
    """Cut the connection as soon as it is to stop: a read waits for its server, not for us."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(GLANCE_S):
            if order.stop.is_set() or time.monotonic() >= order.limit:
                for line in list(order.sockets):
                    cut(line)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        for line in order.sockets:
            line.close()


def cut(line: socket.socket) -> None:
    """End a connection that another thread may be reading from."""
    try:
        # not by SSLSocket.shutdown, which takes the cipher away under that thread's hands
        socket.socket.shutdown(line, socket.SHUT_RDWR)
    except OSError:  # it has ended already
        return


def follow(url: str, folder: Path, order: Order) -> Path:
    """Ask for a file, and where it says that it has moved, there."""
    for _ in range(REDIRECTS + 1):
        parts = split(url)
        response = ask(parts, order)
        if response.status not in MOVED:
            return save(response, parts, folder, order)
        url = urljoin(url, response.getheader("Location", ""))
    raise UrlError(f"this address leads on more than {REDIRECTS} times")


def split(url: str) -> SplitResult:
    """Take an address apart; UrlError for one that is not of the web."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018, raises where it makes no sense
        ascii_host(parts)
    except ValueError as error:
        raise UrlError("this is not an address") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UrlError("an address begins with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise UrlError("an address with a name and a password is not fetched")
    return parts


def ascii_host(parts: SplitResult) -> str:
    """Return the host of an address as name servers know it: letters of other scripts encoded."""
    return (parts.hostname or "").encode("idna").decode()


def ask(parts: SplitResult, order: Order) -> http.client.HTTPResponse:
    """Connect to one of the addresses that were checked, and ask for the file."""
    port, host = parts.port or {"http": 80, "https": 443}[parts.scheme], ascii_host(parts)
    line = connect(resolve(host, port, order.allow), port, order)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        line = context.wrap_socket(line, server_hostname=host, do_handshake_on_connect=False)
        order.sockets.append(line)
        line.do_handshake()
    connection = http.client.HTTPConnection(host, port)
    connection.sock = line  # it does not connect by itself any more
    target = quote(parts.path or "/", safe=NAMED)
    target += "?" + quote(parts.query, safe=NAMED) if parts.query else ""
    connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
    shown = f"[{host}]" if ":" in host else host
    connection.putheader("Host", f"{shown}:{parts.port}" if parts.port else shown)
    connection.putheader("Accept-Encoding", "identity")
    connection.putheader("User-Agent", "avchat")
    connection.putheader("Connection", "close")
    connection.endheaders()
    return connection.getresponse()


def resolve(host: str, port: int, allow: frozenset[Place]) -> list[str]:
    """Look a host's addresses up; UrlError unless every one of them is public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UrlError("no such server") from error
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    for address in addresses:
        if (address, port) in allow:
            continue
        if port not in PORTS or not is_public(address):
            raise UrlError("this address is not a public one")
    return addresses


def is_public(address: str) -> bool:
    """Tell whether an address belongs to the public net, and to nothing inside of it."""
    try:
        one = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(one, ipaddress.IPv6Address):
        # others stand for an address of IPv4: mapped, by NAT64, by 6to4, by Teredo
        if one not in UNICAST or one.sixtofour or one.teredo:
            return False
    return one.is_global and not (one.is_multicast or one.is_reserved or one.is_unspecified)


def connect(addresses: list[str], port: int, order: Order) -> socket.socket:
    """Connect to the first address that answers."""
    fault: OSError = ConnectionError()
    for address in addresses:
        order.check()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        line = socket.socket(family, socket.SOCK_STREAM)
        order.sockets.append(line)
        line.settimeout(QUIET_S)
        try:
            line.connect((address, port))
        except OSError as error:
            fault = error
            continue
        return line
    raise fault


def save(
    response: http.client.HTTPResponse, parts: SplitResult, folder: Path, order: Order
) -> Path:
    """Write what a server sends into a folder, as long as it keeps to the limits."""
    if response.status != 200:
        raise UrlError(f"the server answers {response.status}: {said_by(response.status)}")
    if response.getheader("Content-Encoding", "identity") != "identity":
        raise UrlError("this address cannot be read: its answer is not understood")
    total = response.length or 0  # what it claims; counted below
    if total > order.max_bytes:
        raise too_large(order)
    target = folder / name_of(parts.path, response.getheader("Content-Type", ""))
    with fresh(target, overwrite=True) as unfinished, unfinished.open("wb") as file:
        done = 0
        while piece := response.read1(PIECE):
            order.check()
            done += len(piece)
            if done > order.max_bytes:
                raise too_large(order)
            file.write(piece)
            order.progress(done, total)
        order.check()  # a line that was cut looks like an end
        if done < total:
            raise UrlError("the server broke off before the end of the file")
    return target


def too_large(order: Order) -> UrlError:
    """Say how large a file may be."""
    return UrlError(f"this file is larger than the limit of {order.max_bytes / 1e6:,.0f} MB")


def said_by(status: int) -> str:
    """Say in words what a status means."""
    return http.client.responses.get(status, "which means nothing").lower()


def name_of(path: str, kind: str) -> str:
    """Make a safe file name of an address's path, with an ending that fits what is sent."""
    name = re.sub(r"[^\w. -]", "_", PurePosixPath(unquote(path)).name).strip(". ")
    stem, suffix = PurePosixPath(name).stem[:MAX_NAME], PurePosixPath(name).suffix[:10]
    if not suffix:
        suffix = mimetypes.guess_extension(kind.partition(";")[0].strip()) or ""
    return f"{stem or 'clip'}{suffix}"
