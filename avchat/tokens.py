"""Texts -> token ids, where a template may hold special tokens and what people type may not.

Enters: pieces of text, each from a template or typed. Leaves: the ids that the tokenizer itself
gives to the joined text, but that names of special tokens which were typed are only text.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

CACHE = 65_536


class Piece(NamedTuple):
    """A stretch of text; `template`: names of special tokens in it are these tokens."""

    text: str
    template: bool = False


@lru_cache(maxsize=CACHE)
def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Tokenise a text by itself; names of special tokens in it are only text."""
    if not text:
        return ()
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)


def special_names(tokenizer: PreTrainedTokenizerBase, templates: Sequence[str]) -> tuple[str, ...]:
    """List what nobody may type: special tokens, and added tokens that the templates use.

    Some tokenizers do not call the marks of a turn special (Phi-3's first ones, Qwen 3's <think>).
    """
    return tuple(
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special
        or (token.content.strip() and any(token.content in text for text in templates))
    )


def tail(text: str, names: tuple[str, ...]) -> str:
    """Return what of a template's text stands behind its last special token."""
    return _pattern(names).split(text)[-1]


@lru_cache(maxsize=CACHE)
def joined_ids(
    tokenizer: PreTrainedTokenizerBase,
    pieces: tuple[Piece, ...],
    names: tuple[str, ...],
    before: str | None = "",
) -> tuple[int, ...]:
    """Tokenise pieces as one text, merges across their borders included.

    Args: names: see `special_names`; before: plain text that the pieces continue, "" behind a
    special token or media, None where a conversation begins.
    """
    ids: list[int] = []
    run = ""  # plain text since the last special token
    for piece in pieces:
        found = _pattern(names).split(piece.text) if piece.template else [piece.text]
        # every second one is a name: the pattern is a group
        for k, text in enumerate(found):
            if k % 2:
                ids += _run_ids(tokenizer, run, names, before)
                ids.append(tokenizer.convert_tokens_to_ids(text))
                run, before = "", ""
            else:
                run += text
    return (*ids, *_run_ids(tokenizer, run, names, before))


def _run_ids(
    tokenizer: PreTrainedTokenizerBase, run: str, names: tuple[str, ...], before: str | None
) -> list[int]:
    """Tokenise text without special tokens; a name in it was typed, and is cut in two."""
    ids: list[int] = []
    cuts = [match.start() + 1 for match in _starts(names).finditer(run)]
    for start, stop in zip([0, *cuts], [*cuts, len(run)], strict=True):
        ids += _continued(tokenizer, run[start:stop], before)
        before = ""
    return ids


def _continued(tokenizer: PreTrainedTokenizerBase, text: str, before: str | None) -> list[int]:
    """Tokenise text where it stands: tokenizers from SentencePiece put a space before what begins
    a text, some also before what follows a special token, none before what continues a text.
    """
    if not text:
        return []
    if before is None:
        return tokenizer(text, add_special_tokens=False).input_ids
    lead = _anchor(tokenizer) + before
    known = tokenizer(lead, add_special_tokens=False).input_ids
    ids = tokenizer(lead + text, add_special_tokens=False).input_ids
    if ids[: len(known)] == known:
        return ids[len(known) :]
    return _continued(tokenizer, text, "")  # the border was merged away: a token of its own then


@lru_cache(maxsize=64)
def _anchor(tokenizer: PreTrainedTokenizerBase) -> str:
    """Find a special token to stand before a text and leave it alone; "" where there is none."""
    for number, token in tokenizer.added_tokens_decoder.items():
        if token.special and not token.rstrip:
            ids = tokenizer(token.content + "a", add_special_tokens=False).input_ids
            if ids[0] == number:
                return token.content
    return ""


@lru_cache(maxsize=64)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """Match a name, as a group; nothing where there are none."""
    longest = sorted(names, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest)) or '(?!)'})")


@lru_cache(maxsize=64)
def _starts(names: tuple[str, ...]) -> re.Pattern[str]:
    """Match where names begin, overlapping ones too. A name of one sign cannot be cut."""
    long = [re.escape(name) for name in names if len(name) > 1]
    return re.compile(f"(?={'|'.join(long) or '(?!)'})")
