"""What an answer rests on: how likely its words stay when a sense is taken away.

Enters: an answer and the conversation before it, as the model holds it under several senses.
Leaves: for the answer and for each of its words, in nats, how much likelihood is lost without the
sound, without the picture and without both; and a verdict. The words are fixed: nothing is said
anew, so what is measured is this answer and no other.

Legend: B conditions, P tokens before the question, L tokens of the question and the answer,
A tokens of the answer, V vocabulary, H heads, D width of a head.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from avchat.decoding import Thread
from avchat.encoders import Sense

Verdict = Literal["sound", "picture", "both", "question"]
# A sense counts when without it the whole answer is less than half as likely (our choice).
NEEDED = math.log(2)
WITHOUT_SOUND: dict[Sense, Sense] = {"both": "picture", "sound": "none"}
WITHOUT_PICTURE: dict[Sense, Sense] = {"both": "sound", "picture": "none"}


@dataclass(frozen=True)
class Lost:
    """Log-likelihood, in nats, that words lose without a sense; below 0 they would gain."""

    sound: float
    picture: float
    both: float  # without either


@dataclass(frozen=True)
class Word:
    """A word of an answer and what it loses."""

    word: str
    lost: Lost


@dataclass(frozen=True)
class Evidence:
    """What an answer rests on: the verdict, what the whole answer loses, and each of its words.

    `both` is the verdict also where either sense alone would have given the answer: then it loses
    little without one of them and much without both.
    """

    verdict: Verdict
    lost: Lost
    words: tuple[Word, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `avchat chat --evidence --json` prints it."""
        words = [{"word": word.word, **asdict(word.lost)} for word in self.words]
        return {"verdict": self.verdict, **asdict(self.lost), "says": self.says(), "words": words}

    def says(self) -> str:
        """Say the verdict in words."""
        lost = self.lost
        if self.verdict == "question":
            return "the question alone gives this answer: without sound and picture it is " + (
                _likely(lost.both)
            )
        if self.verdict == "both" and max(lost.sound, lost.picture) < NEEDED:
            return (
                "the sound or the picture, either alone gives this answer: without both it is "
                f"{_likely(lost.both)}"
            )
        rests = {"sound": "the sound", "picture": "the picture", "both": "sound and picture"}
        return (
            f"this answer rests on {rests[self.verdict]}: without the sound it is "
            f"{_likely(lost.sound)}, without the picture {_likely(lost.picture)}"
        )


def conditions(sense: Sense) -> dict[str, Sense]:
    """Name the senses that are left of one: with all of it, and with each taken away."""
    deaf, blind = WITHOUT_SOUND.get(sense, sense), WITHOUT_PICTURE.get(sense, sense)
    return {"full": sense, "sound": deaf, "picture": blind, "both": "none"}


def weigh(
    threads: dict[Sense, Thread],
    sense: Sense,
    before: Sequence[int],
    question: Sequence[int],
    answer: Sequence[int],
) -> Evidence:
    """Weigh an answer that was given under a sense.

    Args: threads: a conversation for each sense of `conditions`; before: ids of the turns before
    the question. Threads that do not hold these yet are brought up to them, and keep them.
    """
    wanted = conditions(sense)
    for name in set(wanted.values()):
        thread = threads[name]
        known = [*thread.prefix, *before]
        if rest := known[len(thread.ids) :]:
            thread.feed(rest)
            thread.settle()
    rows = list(dict.fromkeys(wanted.values()))
    chances = log_chances([threads[row] for row in rows], len(before), question, answer)  # [B, A]
    full = chances[rows.index(sense)]
    lost = {
        name: full - chances[rows.index(left)] for name, left in wanted.items() if name != "full"
    }
    whole = Lost(**{name: float(each.sum()) for name, each in lost.items()})
    return Evidence(verdict(whole), whole, tuple(_words(threads[sense], answer, lost)))


def verdict(lost: Lost) -> Verdict:
    """Judge what an answer rests on by what it loses."""
    if max(lost.both, lost.sound, lost.picture) < NEEDED:
        return "question"
    heard, seen = lost.sound >= NEEDED, lost.picture >= NEEDED
    if heard == seen:
        return "both"
    return "sound" if heard else "picture"


@torch.inference_mode()
def log_chances(
    threads: Sequence[Thread], num_before: int, question: Sequence[int], answer: Sequence[int]
) -> Tensor:
    """Score the answer's tokens under each thread, [B, A], in one pass over question and answer.

    What came before is not computed again: the threads' keys and values are laid side by side,
    padded on the left.

    Args: num_before: tokens of the turns between the media and the question.
    """
    model, device = threads[0].model, threads[0].model.device
    lengths = [len(thread.prefix) + num_before for thread in threads]
    cache = _side_by_side(threads, lengths)
    ids = torch.tensor([*question, *answer[:-1]], device=device).expand(len(threads), -1)  # B L
    before = torch.tensor(lengths, device=device)[:, None]
    positions = before + torch.arange(ids.shape[1], device=device)  # B L
    places = torch.arange(max(lengths) + ids.shape[1], device=device)
    logits = model.language(
        inputs_embeds=model.embed(ids, []),
        attention_mask=(places >= max(lengths) - before).long(),  # B P+L
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=len(answer),
    ).logits
    logits = model.sayable(logits).float()  # B A V
    said = torch.tensor(answer, device=device).expand(len(threads), -1)[..., None]
    return logits.log_softmax(-1).gather(-1, said)[..., 0].cpu()


def _side_by_side(threads: Sequence[Thread], lengths: Sequence[int]) -> DynamicCache:
    """Join the first tokens of each thread's keys and values, [1, H, P, D], as one batch."""
    joined, longest = DynamicCache(), max(lengths)
    kept = [thread.kept(length) for thread, length in zip(threads, lengths, strict=True)]
    for number, layer in enumerate(zip(*kept, strict=True)):
        keys, values = (
            torch.cat([F.pad(each, (0, 0, longest - each.shape[-2], 0)) for each in side])
            for side in zip(*layer, strict=True)
        )
        joined.update(keys, values, number)
    return joined


def _words(thread: Thread, answer: Sequence[int], lost: dict[str, Tensor]) -> list[Word]:
    """Add up tokens that make one word; a token belongs to the word in which it ends."""
    decode = thread.model.tokenizer.decode
    said = decode(list(answer), skip_special_tokens=True).split()
    sums = [dict.fromkeys(lost, 0.0) for _ in said]
    for k in range(len(answer)):
        so_far = decode(list(answer[: k + 1]), skip_special_tokens=True).split()
        for name, each in lost.items():
            if said:
                sums[min(max(len(so_far), 1), len(said)) - 1][name] += float(each[k])
    return [Word(word, Lost(**values)) for word, values in zip(said, sums, strict=True)]


def _likely(nats: float) -> str:
    """Word a loss of log-likelihood as a ratio."""
    if abs(nats) < 0.1:
        return "as likely"
    more, times = ("less", nats) if nats > 0 else ("more", -nats)
    if times > math.log(1e6):
        return f"more than a million times {more} likely"
    ratio = math.exp(times)
    return f"{ratio:.1f} times {more} likely" if ratio < 10 else f"{ratio:,.0f} times {more} likely"
