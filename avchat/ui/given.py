"""What a program gives -> what it means, checked: files, texts, numbers, options.

Gradio hands on whatever JSON arrives. Each function raises Refused, in one line, for what cannot
be meant. Of this machine's files a program reaches those alone that were uploaded.
"""

import math
from pathlib import Path
from threading import Event
from urllib.parse import unquote

from gradio.utils import get_upload_folder

from avchat.app_settings import Settings
from avchat.moments import SENSES
from avchat.ui.clips import Options
from avchat.ui.doors import ABROAD
from avchat.ui.from_url import UrlError, fetch_url
from avchat.ui.progress import Told, silent
from avchat.ui.visitors import Refused

SERVED = "/gradio_api/file="  # what stands before the path in an address of this app's own files
WEB = ("http://", "https://")
UNKNOWN = (
    "no such upload: send the file first (POST /gradio_api/upload, upload_file_to_gradio, or "
    "handle_file of gradio_client), then give what that returns"
)
MOST = 50  # clips or moments that are listed at most
OPTIONS = "start end frames temperature top_p seed max_tokens system transcript".split()
MOST_FRAMES = 10_000  # more than any model takes: it says itself how many it can
LONGEST = 1024  # tokens of an answer, as on the page


def file_of(given: object, settings: Settings, folder: Path, stop: Event) -> Path:
    """Find the file that a program gives; one on the web is fetched into a folder.

    Args: given: an upload, see `uploaded`, or, where the settings allow it, a public address.
    """
    if not isinstance(given, str) or SERVED in given or not given.startswith(WEB):
        return uploaded(given)
    return fetched(given, settings, folder, silent, stop)


def fetched(address: str, settings: Settings, folder: Path, told: Told, stop: Event) -> Path:
    """Fetch a file from a public address of the web into a folder, where the settings allow it.

    Raises Refused for what cannot be had, and when it was stopped.
    """
    if not settings.url:
        raise Refused(ABROAD)

    def tell(done: float, total: float) -> None:
        told("fetching", done, total)

    most = settings.max_file_mb * 1_000_000
    try:
        found = fetch_url(address, folder, max_bytes=most, progress=tell, stop=stop)
    except UrlError as error:
        raise Refused(str(error)) from error
    if found is None:
        raise Refused("stopped: no clip was opened")
    return found


def uploaded(given: object) -> Path:
    """Find an uploaded file.

    Args: given: Gradio's file data, what /gradio_api/upload has returned, or this app's own address
    of that. Raises Refused for all else: other files of this machine.
    """
    named = given.get("path") if isinstance(given, dict) else given
    if not isinstance(named, str) or not named or "\0" in named:
        raise Refused(UNKNOWN)
    before, own, after = named.partition(SERVED)
    path = Path(unquote(after) if own else before).resolve()
    uploads = Path(get_upload_folder()).resolve()
    # An upload is uploads/<hash of its bytes>/<name>: whoever can name one has had it.
    if path.parent.parent != uploads or not path.is_file():
        raise Refused(UNKNOWN)
    return path


def wish(text: object, sense: object) -> str:
    """Return a text to ask or to look for; Refused where there is none, or no such sense."""
    if not isinstance(text, str) or not text.strip():
        raise Refused("the text is empty: write what to ask or to look for")
    if sense not in SENSES:
        raise Refused(f"the sense is one of {', '.join(SENSES)}")
    return text.strip()


def number(value: object, name: str, least: float, most: float = math.inf) -> float | None:
    """Return a number within limits, or None where none was given."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        limits = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise Refused(f"{name} is a number, {limits}")
    return float(value)


def whole(value: object, name: str, least: int, most: int) -> int | None:
    """Return a whole number within limits, or None where none was given."""
    found = number(value, name, least, most)
    if found is not None and found != int(found):
        raise Refused(f"{name} is a whole number")
    return None if found is None else int(found)


def how_many(top: object) -> int:
    """Return how many results are wanted."""
    return whole(top, "top", 1, MOST) or 1


def part(start: object, end: object) -> tuple[float | None, float | None]:
    """Return a range in seconds; whether it makes sense for a clip is looked at when it is used."""
    return number(start, "start", 0), number(end, "end", 0)


def whole_part(start: object, end: object) -> tuple[float, float]:
    """Return a range in seconds; Refused where its start or its end is not given."""
    first, last = part(start, end)
    if first is None or last is None:
        raise Refused("a range needs its start and its end")
    return first, last


def options_of(given: object) -> Options:
    """Return how a question is asked; what is not given, or None, is as usual.

    Args: given: some of OPTIONS by name.
    """
    if not isinstance(given, dict) or not given.keys() <= set(OPTIONS):
        raise Refused(f"options are given by name: {', '.join(OPTIONS)}")
    start, end = part(given.get("start"), given.get("end"))
    numbers = {
        "frames": whole(given.get("frames"), "frames", 1, MOST_FRAMES),
        "temperature": number(given.get("temperature"), "temperature", 0, 2),
        "top_p": number(given.get("top_p"), "top_p", 0.01, 1),
        "seed": whole(given.get("seed"), "seed", 0, 2**31 - 1),
        "max_new_tokens": whole(given.get("max_tokens"), "max_tokens", 1, LONGEST),
    }
    return Options(
        start,
        end,
        system=str(given.get("system") or ""),
        transcript=bool(given.get("transcript")),
        **{name: value for name, value in numbers.items() if value is not None},
    )
