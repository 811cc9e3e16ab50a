"""A judge of open answers: a language model behind any OpenAI-compatible endpoint.

Enters: the system text of an aspect, and the fields to be judged, which nobody vouches for.
Leaves: a row a reply: who was asked, who answered, its raw words, what it cost; and the verdict
that those words hold, if they hold one.
"""

import json
import os
import random
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from avchat.evaluation.items import EvalError
from avchat.evaluation.records import Row

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

TOP = 5
# A limit, since a model that is held to JSON may else write blanks for ever.
SETTINGS: Row = {
    "temperature": 0,
    "max_tokens": 1024,
    "response_format": {"type": "json_object"},
}
# What newer models take in place of max_tokens: more (our choice), since their thinking counts.
NEWER_LIMIT: Row = {"max_completion_tokens": 8192}
LEFT_OUT = (*SETTINGS, *NEWER_LIMIT)  # what may be left out
LOOK_S = 10.0  # for what only saves a surprise
NO_KEY, SHORTEST_KEY = "none", 4  # in letters: what is shorter is no secret, but a part of words
MOST_TOKENS = 2**40  # what is more is nonsense
LONGEST_WAIT_S = 120.0  # who is told to wait longer rather comes back
AGAIN = (408, 409, 429)  # and all from 500 on: the same request may go well later
OF_A_REQUEST = (400, 413, 422)  # what one question may be at fault for; 402 and 403 are for all
OF_A_SETTING = ("unsupported_parameter", "unsupported_value")
OF_THE_QUESTION = ("content_filter", "content_policy_violation", "context_length_exceeded")
# What JSON lets stand as it is, but is no letter of an answer: brackets, which begin and end the
# control tokens of many chat templates (a server may take "<|im_end|>" in a message for one),
# other line ends, letters that nobody sees, what turns the direction of writing, half a pair.
UNSAFE = re.compile(
    "[<>\\[\\]\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL | re.IGNORECASE)


class _Again(Exception):
    """A fault that may pass."""

    def __init__(self, why: str, after_s: float | None = None) -> None:
        super().__init__(why)
        self.after_s = after_s  # what the server asked to wait


class _Refused(Exception):
    """A fault of one question: the others may go well."""


@dataclass(frozen=True)
class JudgeName:
    """Which judge, and with what settings: all that a report needs, without address and key."""

    model: str
    without: tuple[str, ...] = ()  # settings that the endpoint does not take

    def __post_init__(self) -> None:
        """Raise EvalError for a setting that there is not."""
        if unknown := sorted(set(self.without) - set(LEFT_OUT)):
            raise EvalError(f"a judge has no setting {unknown[0]!r}: {', '.join(LEFT_OUT)}")

    @property
    def settings(self) -> Row:
        """Return what each request says beside its messages; the limit under one of its names."""
        sent = SETTINGS if "max_tokens" not in self.without else SETTINGS | NEWER_LIMIT
        return {name: sent[name] for name in sent if name not in self.without}

    @property
    def flags(self) -> str:
        """Name it as the flags of eval/judge.py do."""
        return " ".join([self.model, *(("--without", *self.without) if self.without else ())])


class Judge:
    """A model that marks answers; one for all threads.

    Args:
        base_url: None for OPENAI_BASE_URL, and without that OpenAI's own.
        key: None for OPENAI_API_KEY; an endpoint of one's own may need none.
        tries: how often one request is sent at most.
        pause_s: the wait before the second try in seconds; it doubles with each.
        without: settings that the endpoint does not take (newer models have no temperature).
        host: what its marks are known by, in place of its address, where one judge moves.

    Raises EvalError where it cannot be addressed, or openai is not installed.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        key: str | None = None,
        *,
        timeout_s: float = 60.0,
        tries: int = 6,
        pause_s: float = 1.0,
        without: Sequence[str] = (),
        host: str | None = None,
    ) -> None:
        if tries < 1:
            raise EvalError(f"a judge must be asked at least once, not {tries} times")
        self.name = JudgeName(model, tuple(without))
        self.tries, self.pause_s = tries, pause_s
        self.retries = 0  # requests sent again, by all threads
        self._counting = threading.Lock()
        self.answered = False  # so a fault of the sender is the question's, not the address's
        self._client = _client(base_url, key, timeout_s)
        url = urlsplit(str(self._client.base_url))
        self.address = f"{url.hostname}:{url.port}" if url.port else str(url.hostname)
        self.host = host or self.address

    def ask(
        self, system: str, fields: Mapping[str, str], over: threading.Event | None = None
    ) -> Row:
        """Ask for one verdict; a row with `error` where the endpoint refuses this question.

        Args: over: set by another thread, it ends waiting: the try in hand is the last.
        Raises EvalError where the judge does not answer, or never will.
        """
        over = over or threading.Event()
        sent = {"model": self.name.model, "messages": messages(system, fields)}
        body = sent | self.name.settings
        for tried in range(1, self.tries + 1):
            try:
                return self._once(body)
            except _Refused as refused:
                return {"model": self.name.model, "host": self.host, "error": str(refused)}
            except _Again as again:
                if tried == self.tries or over.wait(self._wait_s(tried, again.after_s)):
                    times = "once" if tried == 1 else f"{tried} times"
                    line = f"the judge at {self.address} {again}; asked {times}"
                    raise EvalError(f"{line}. What was judged is kept") from again
            with self._counting:
                self.retries += 1
        raise AssertionError("the last try returns or raises")

    def shutdown(self) -> str | None:
        """Return the day on which the endpoint will give this model up; None where it says none."""
        import openai

        asking = self._client.with_options(timeout=LOOK_S).models.with_raw_response
        try:
            about = asking.retrieve(self.name.model).http_response.json()
        except (openai.OpenAIError, ValueError, RecursionError):
            return None  # most endpoints know nothing of their models
        found = about.get("shutdown_date") if isinstance(about, dict) else None
        return self._one_line(str(found))[:40] if found else None

    def _wait_s(self, tried: int, after_s: float | None) -> float:
        """Choose how long to wait: differently by chance, or all threads would come at once."""
        longer = min(self.pause_s * 2 ** (tried - 1) * random.uniform(0.5, 1.5), LONGEST_WAIT_S)
        # never less: all tries would be gone in seconds where a server says 0 each time
        return max(longer, (after_s or 0.0) + random.uniform(0, self.pause_s))

    def _once(self, body: Row) -> Row:
        import openai

        asking = self._client.chat.completions.with_raw_response
        try:
            # raw: the client's own reading lets pass, half filled, what is no chat completion
            row = self._row(asking.create(**body).http_response.json())
        except openai.APITimeoutError as error:
            raise _Again("does not answer in time") from error
        except openai.APIConnectionError as error:
            raise _Again("cannot be reached, or drops the connection") from error
        except openai.APIStatusError as error:
            raise self._fault(error) from error
        except (ValueError, RecursionError) as error:  # no JSON, or brackets without end
            raise self._no_completion() from error
        self.answered = True
        return row

    def _no_completion(self) -> Exception:
        """Tell an address that is no judge's from a gateway that stumbled once."""
        if self.answered:
            return _Again("sends a reply without an answer")
        line = f"what answers at {self.address} does not speak the protocol of chat completions"
        return EvalError(f"{line}: does the base URL end as it should, mostly in /v1?")

    def _fault(self, error: "APIStatusError") -> Exception:
        """Tell what passes from what is this question's, and from what will never go well."""
        status, the_judge = error.status_code, f"the judge at {self.address}"
        words = error.message.removeprefix(f"Error code: {status} - ")
        said = f"{status}: {self._one_line(words):.200}"
        if status == 401:  # without its words: some repeat a part of the key
            return EvalError(f"{the_judge} does not accept the key: OPENAI_API_KEY")
        if status == 404:
            return EvalError(
                f"{the_judge} knows no model {self.name.model!r}, or has no such address"
            )
        if error.code == "insufficient_quota":
            return EvalError(f"{the_judge} has nothing left to spend. What was judged is kept")
        if status in AGAIN or status >= 500:
            after_s = _after_s(error.response.headers)
            if after_s is not None and after_s > LONGEST_WAIT_S:
                return EvalError(f"{the_judge} asks to wait {after_s:.0f} s: come back then")
            return _Again(f"answers {said}", after_s)
        if self._is_the_questions(error, said):
            return _Refused(said)
        if status not in OF_A_REQUEST:
            return EvalError(f"{the_judge} turns requests away ({said}). What was judged is kept")
        return EvalError(f"{the_judge} does not take what it is sent ({said}){self._advice(error)}")

    def _is_the_questions(self, error: "APIStatusError", said: str) -> bool:
        """Tell whether other questions may go well where this one does not."""
        if error.code in OF_THE_QUESTION:
            return True
        if error.status_code not in OF_A_REQUEST or error.code in OF_A_SETTING:
            return False
        return self.answered or "context length" in said

    def _advice(self, error: "APIStatusError") -> str:
        """Say which setting to leave out, where the endpoint names one that it was sent."""
        words = re.findall(r"\w+", f"{error.param} {error.message}")  # param: the setting's name
        named = next((word for word in words if word in self.name.settings), None)
        return f": say --without {' '.join([*self.name.without, named])}" if named else ""

    def _row(self, reply: Any) -> Row:
        """Keep what matters of a reply, be it ever so odd."""
        choices = _part(reply, "choices", list)
        choice = choices[0] if choices else {}
        message, usage = _part(choice, "message", dict), _part(reply, "usage", dict)
        if not message:
            raise self._no_completion()
        raw = message.get("content") or message.get("refusal") or ""
        return {
            "model": self.name.model,
            "returned": self._kept(reply.get("model") or ""),
            "fingerprint": self._kept(reply.get("system_fingerprint")),
            "host": self.host,
            "finish": self._kept(choice.get("finish_reason")),
            "tokens_in": tokens_of(usage, "prompt_tokens"),
            "tokens_out": tokens_of(usage, "completion_tokens"),
            "raw": self._kept(raw),
        }

    def _kept(self, said: Any) -> str | None:
        """Return what a server said as a file takes it, and without the key."""
        return None if said is None else _writable(self._without_key(str(said)))

    def _one_line(self, said: str) -> str:
        return _writable(" ".join(self._without_key(said).split()))

    def _without_key(self, said: str) -> str:
        key = self._client.api_key
        secret = key != NO_KEY and len(key) >= SHORTEST_KEY
        return said.replace(key, "[key]") if secret else said


def tokens_of(row: Row, name: str) -> int | None:
    """Return a number of tokens; None where what is there is no such number."""
    found = row.get(name)
    return found if type(found) is int and 0 <= found < MOST_TOKENS else None


def _part(reply: Any, name: str, kind: type) -> Any:
    """Return a part of a reply, empty where it is missing or something else."""
    found = reply.get(name) if isinstance(reply, dict) else None
    return found if isinstance(found, kind) else kind()


def _writable(text: str) -> str:
    """Spell out halves of surrogate pairs, which JSON may hold and no file takes."""
    return text.encode(errors="backslashreplace").decode()


def messages(system: str, fields: Mapping[str, str]) -> list[dict[str, str]]:
    """Word a request: the fields go as one JSON object that no value can break out of."""
    packed = json.dumps(dict(fields), ensure_ascii=False)
    # within strings only: an object of strings has no brackets of its own but { and }
    packed = UNSAFE.sub(_escaped, packed)
    return [{"role": "system", "content": system}, {"role": "user", "content": packed}]


def _escaped(found: re.Match[str]) -> str:
    text = json.dumps(found[0])[1:-1]  # of what lies beyond 16 bits, a pair
    return text if text.startswith("\\u") else f"\\u{ord(text):04x}"


def verdict_of(raw: str, yes_no: bool = False) -> Row:
    """Read a verdict: `score`, a whole number from 0 to 5, and `match` where yes_no.

    What is anything else gives {"score": None, "unparsed": why}: never a number by guess. A fence
    around all of it is taken off, since many models put one there whatever they are told.
    """
    fenced = FENCE.fullmatch(raw)
    try:
        found = json.loads(fenced[1] if fenced else raw, object_pairs_hook=_once_each)
    except (ValueError, RecursionError):
        return _unparsed("not JSON")
    if not isinstance(found, dict):
        return _unparsed("no JSON object")
    score, match = found.get("score"), found.get("match")
    whole = isinstance(score, int) and not isinstance(score, bool)
    if not whole or not 0 <= score <= TOP:  # not int(score): that makes 4 of 4.8
        return _unparsed(f"the score is no whole number from 0 to {TOP}")
    if not yes_no:
        return {"score": score}
    if match not in ("yes", "no"):
        return _unparsed("match is neither yes nor no")
    return {"score": score, "match": match}


def _unparsed(why: str) -> Row:
    return {"score": None, "unparsed": why}


def _once_each(pairs: list[tuple[str, Any]]) -> Row:
    """Refuse an object that says a thing twice: which one is meant?"""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands there twice")
    return dict(pairs)


def _client(base_url: str | None, key: str | None, timeout_s: float) -> "OpenAI":
    try:
        import openai
    except ImportError as error:
        raise EvalError("a judge needs the openai client: pip install 'avchat[eval]'") from error
    base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
    key = key or os.environ.get("OPENAI_API_KEY") or None
    if base_url is not None and not re.match(r"https?://[^/]", base_url):
        raise EvalError(f"{base_url!r:.60}: a judge's base URL begins with http:// or https://")
    if key is None and base_url is None:
        raise EvalError("no key for the judge: set OPENAI_API_KEY, or OPENAI_BASE_URL to another")
    if key is not None and not re.fullmatch("[!-~]+", key):
        raise EvalError("OPENAI_API_KEY holds a blank or a letter that no key has")
    # max_retries=0: the tries are ours, so that they are counted and end
    return openai.OpenAI(api_key=key or NO_KEY, base_url=base_url, timeout=timeout_s, max_retries=0)


def _after_s(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After in seconds: a number or a date (RFC 9110, 10.2.3); None if neither."""
    text = headers.get("retry-after", "")
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=timezone.utc)
    return max(0.0, (then - datetime.now(timezone.utc)).total_seconds())
