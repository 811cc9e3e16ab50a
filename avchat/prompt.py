"""Conversations to token ids, placeholders and labels: the only owner of the template.

Training and chat call the same functions, so their ids are equal. Media come before the first turn:
`opening, slots (time, visual, audio), words for what is missing, question, answer, question, ...`.
A transcript, where one is asked for, stands between the words for what is missing and the question.
A placeholder is an id that no tokenizer has (below zero): nobody can type one, and a published
vocabulary need not grow. The model overwrites these rows with media tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from avchat.config import PromptConfig
from avchat.projectors import Slot
from avchat.tokens import Piece, joined_ids, plain_ids, special_names, tail
from avchat.transcripts import Line

PICTURE_ID = -1
SOUND_ID = -2
IGNORE = -100  # label of a token that is not trained


class PromptError(ValueError):
    """A question that cannot be asked; the message is one line in the user's words."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a conversation. Labels are not shifted: the model shifts them."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    weight: float = 1.0  # of its trained tokens in the loss


@dataclass(frozen=True)
class Packed:
    """One training row. `blocks` and `positions` are None where the row is plainly causal."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    weights: tuple[float, ...]
    # A token of block k sees block 0 and block k, as far as they stand before it.
    blocks: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Turn:
    """A question with its answer, None while it is being asked; the answer's weight in the loss."""

    question: str
    answer: str | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Prompt:
    """A template bound to a tokenizer.

    Args: also: further tokens that end an answer, as a language model's own generation has them.
    """

    config: PromptConfig
    tokenizer: PreTrainedTokenizerBase = field(hash=False, compare=False)
    also: tuple[int, ...] = ()

    @cached_property
    def end_id(self) -> int:
        """Return the token that ends an answer, in training and in a conversation's history."""
        if self.config.end is None:
            return self.tokenizer.eos_token_id
        return self.tokenizer.convert_tokens_to_ids(self.config.end)

    @cached_property
    def _ends(self) -> frozenset[int]:
        eos = self.tokenizer.eos_token_id
        return frozenset({self.end_id, *self.also} | ({eos} if eos is not None else set()))

    def stops(self, token: int) -> bool:
        """Say whether an answer is over when the model says this token."""
        return token in self._ends

    @cached_property
    def _names(self) -> tuple[str, ...]:
        pieces = (value for value in vars(self.config).values() if isinstance(value, str))
        return special_names(self.tokenizer, tuple(pieces))

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Tokenise plain text; names of special tokens inside it are only text."""
        return self._ids(Piece(text))

    def _ids(self, *pieces: Piece, after: str = "", begins: bool = False) -> tuple[int, ...]:
        """Tokenise pieces as one. Args: after: what of the template stands before them; begins:
        nothing does.
        """
        if not self.config.special:
            return plain_ids(self.tokenizer, "".join(piece.text for piece in pieces))
        before = None if begins else tail(after, self._names)
        return joined_ids(self.tokenizer, pieces, self._names, before)

    def media_prefix(
        self,
        slots: Sequence[Slot] | None,
        lines: Sequence[Line] | None = None,
        system: str = "",
    ) -> Segment:
        """Lay out what comes before the first question. Args: slots: None where there is no clip
        to speak of, not even a missing one; lines: what is said in it, None without a transcript;
        system: what the user wants the model to know or heed, plain text behind the opening (our
        choice: every template has that place, and not all have a turn for it).
        """
        ids = [*self._ids(Piece(self.config.opening, True), begins=True)]
        if system.strip():
            ids += self.text_ids(f" {system.strip()}\n")
        if slots is None:
            return Segment(tuple(ids), (IGNORE,) * len(ids))
        for slot in slots:
            if slot.time_s is not None:
                ids += self.text_ids(self.config.slot_time.format(slot.time_s))
            ids += [PICTURE_ID] * slot.visual + [SOUND_ID] * slot.audio
        if not any(slot.visual for slot in slots):
            ids += self.text_ids(self.config.no_picture)
        if lines is not None:  # there was sound, whether or not tokens stand for it
            ids += self.transcript_ids(lines)
        elif not any(slot.audio for slot in slots):
            ids += self.text_ids(self.config.no_sound)
        ids += self.text_ids(self.config.after_media)
        return Segment(tuple(ids), (IGNORE,) * len(ids))

    def transcript_ids(self, lines: Sequence[Line]) -> list[int]:
        """Tokenise what is said, each line by itself, so that a cut leaves the others as they are.

        Without a line it is said that nothing is.
        """
        if not lines:
            return [*self.text_ids(self.config.no_speech)]
        ids = [*self.text_ids(self.config.transcript)]
        for line in lines:
            text = " ".join(line.text.split())
            ids += self.text_ids(self.config.transcript_line.format(line.start, line.end, text))
        return ids

    def turn(self, turn: Turn, first: bool = True) -> Segment:
        """Lay out one turn: the question, then the answer and its end, which alone are trained."""
        question = turn.question.strip()
        if not question:
            raise PromptError("the question is empty")
        config = self.config
        lead = config.first_question if first else config.next_question
        asked = self._ids(
            Piece(lead, True),
            Piece(question),
            Piece(config.before_answer, True),
            after=config.opening if first else "",
        )
        ids, labels = asked, (IGNORE,) * len(asked)
        if turn.answer is not None:
            said = self.answer_ids(turn.answer)
            ids, labels = ids + said, labels + said
        return Segment(ids, labels, turn.weight)

    def answer_ids(self, answer: str) -> tuple[int, ...]:
        """Tokenise an answer with the space before it and the end after it."""
        config = self.config
        said = self._ids(
            Piece(config.answer, True),
            Piece(answer.strip()),
            Piece(config.after_answer, True),
            after=config.before_answer,
        )
        return (*said, self.end_id)

    def build(
        self,
        slots: Sequence[Slot] | None,
        turns: Sequence[Turn],
        lines: Sequence[Line] | None = None,
    ) -> Packed:
        """Lay out a whole conversation on one clip, or on none; lines: as in `media_prefix`."""
        return pack(self.media_prefix(slots, lines), self.turns(turns))

    def build_independent(self, slots: Sequence[Slot], turns: Sequence[Turn]) -> Packed:
        """Lay out several conversations of one turn each on one clip (see `pack_independent`)."""
        return pack_independent(self.media_prefix(slots), [self.turn(turn) for turn in turns])

    def turns(self, turns: Sequence[Turn]) -> list[Segment]:
        """Lay out turns that follow one another."""
        return [self.turn(turn, first=k == 0) for k, turn in enumerate(turns)]


def pack(prefix: Segment, turns: Sequence[Segment]) -> Packed:
    """Join turns as one conversation: each turn sees all that came before."""
    segments = [prefix, *turns]
    return Packed(
        ids=tuple(token for segment in segments for token in segment.ids),
        labels=tuple(label for segment in segments for label in segment.labels),
        weights=tuple(segment.weight for segment in segments for _ in segment.ids),
    )


def pack_independent(prefix: Segment, turns: Sequence[Segment]) -> Packed:
    """Join turns that do not see each other: one pass over the media for many questions.

    Every turn sees the prefix and itself, and its positions go on from the prefix, so the loss is
    that of separate rows. With prefix p and turns a a, b (key across, query down, x = seen):

            p a a b        blocks     0 1 1 2
        p   x              positions  0 1 2 1
        a   x x
        a   x x x
        b   x     x
    """
    joined = pack(prefix, turns)
    start = len(prefix.ids)
    segments = [prefix, *turns]
    positions = [*range(start)]
    for turn in turns:
        positions += range(start, start + len(turn.ids))
    return Packed(
        ids=joined.ids,
        labels=joined.labels,
        weights=joined.weights,
        blocks=tuple(k for k, segment in enumerate(segments) for _ in segment.ids),
        positions=tuple(positions),
    )


def join_rows(rows: Sequence[Packed]) -> Packed:
    """Join plain rows as one that none of them can tell from being alone: each is a block of its
    own, from 1 on (block 0 is what all see), and its positions begin at 0.
    """
    assert all(row.blocks is None for row in rows), "rows that hold blocks are not joined"
    return Packed(
        ids=tuple(token for row in rows for token in row.ids),
        labels=tuple(label for row in rows for label in row.labels),
        weights=tuple(weight for row in rows for weight in row.weights),
        blocks=tuple(k for k, row in enumerate(rows, 1) for _ in row.ids),
        positions=tuple(place for row in rows for place in range(len(row.ids))),
    )


def check_budget(ids: Sequence[int], context: int, *, question: bool = True) -> None:
    """Raise PromptError, with the numbers, when a prompt and one token of answer do not fit.

    Args: question: the prompt holds a question (else only a clip).
    """
    media = sum(token < 0 for token in ids)
    text = len(ids) - media
    if len(ids) + 1 > context:
        what = "the question is too long" if question else "the clip needs too many tokens"
        raise PromptError(
            f"{what}: {media} media tokens + {text} text tokens + 1 for the answer is more than "
            f"the model's context of {context} tokens"
        )
