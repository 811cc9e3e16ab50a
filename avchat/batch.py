"""Questions answered many at a time: what evaluations and `avchat chat --batch` run.

Enters: questions that are laid out, or features of clips and a question on each. Leaves: an answer
each, the same as one by one. What stands before the question is computed once a clip.

Legend: B rows, T threads, P columns of prefixes, Q of questions, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from avchat.decoding import Said, Thread
from avchat.encoders import Features, Sense
from avchat.model import AVChat
from avchat.prompt import Turn, check_budget
from avchat.transcripts import Line

Tries = list[list[tuple[int, ...]]]  # for each row the ids of the only answers there may be
Pick = Callable[[Tensor], int]


def answer_batch(
    model: AVChat,
    clips: Sequence[Features],
    questions: Sequence[str],
    *,
    sense: Sense = "both",
    choices: Sequence[Sequence[str]] | None = None,
    lines: Sequence[Sequence[Line] | None] | None = None,
    max_new_tokens: int = 32,
    rows: int = 64,
) -> list[str]:
    """Answer one question on each clip, greedily, many at a time; the same as one by one.

    Args: clips: one a question (a clip that comes again in a row is projected once); choices: for
    each question the only answers there may be; lines: of each clip's transcript, where that is
    given to the model; rows: questions that are in memory at once.
    """
    assert len(clips) == len(questions), f"{len(clips)} clips, {len(questions)} questions"
    answers: list[str] = []
    for k in range(0, len(questions), rows):
        some = clips[k : k + rows]
        read = [None] * len(some) if lines is None else lines[k : k + rows]
        threads = {
            id(clip): Thread(model, [clip.only(sense)], said)
            for clip, said in zip(some, read, strict=True)
        }
        said = [
            _asked(threads[id(clip)], sense, question, max_new_tokens)
            for clip, question in zip(some, questions[k : k + rows], strict=True)
        ]
        tries = None
        if choices is not None:
            kept = choices[k : k + rows]
            tries = [[model.prompt.answer_ids(answer) for answer in row] for row in kept]
            for row, answers_of in zip(said, tries, strict=True):
                row.room = max(map(len, answers_of))
        decode_together(said, tries=tries)
        answers += [row.text().strip() for row in said]
    return answers


def _asked(thread: Thread, sense: Sense, question: str, room: int) -> Said:
    """Lay out the first question of a conversation; PromptError where it does not fit."""
    ids = thread.model.prompt.turn(Turn(question)).ids
    said = Said(thread, sense, [*thread.prefix, *ids], len(ids), room)
    check_budget(said.prompt, thread.model.context)
    return said


@torch.inference_mode()
def decode_together(
    said: Sequence[Said], *, picks: Sequence[Pick] | None = None, tries: Tries | None = None
) -> None:
    """Say first answers together: fill in what `decode` would, row by row.

    Rows that share a thread share what is computed of its prefix; the threads are left as they
    were, with nothing kept. Rows that have ended are dropped from the cache in halves.

    Args: picks: how each row takes a token, None for the likeliest; tries: answers to keep to.
    """
    assert not any(row.thread.ids for row in said), "only first answers are said together"
    for rows in _together(said):
        _decode_rows([said[k] for k in rows], _of(picks, rows), _of(tries, rows))


def _together(said: Sequence[Said]) -> list[list[int]]:
    """List which rows go together: all of them, or those of one length where the language model
    counts padding among the tokens that it looks back to.
    """
    window = said[0].thread.model.window if said else None
    if window is None or max(len(row.prompt) + row.room for row in said) <= window.size:
        return [[*range(len(said))]] if said else []
    alike: dict[tuple[int, int], list[int]] = {}
    for k, row in enumerate(said):
        alike.setdefault((len(row.thread.prefix), len(row.prompt)), []).append(k)
    return list(alike.values())


def _decode_rows(said: Sequence[Said], picks: list[Pick] | None, tries: Tries | None) -> None:
    """Say the answers of one batch."""
    model = said[0].thread.model
    cache, prefixes = _prefill(model, said)
    logits, seen = _ask(model, said, cache, prefixes)
    rows = list(range(len(said)))  # of `said`, by row of the cache
    places = torch.tensor([len(row.prompt) for row in said], device=model.device)
    while True:
        taken = _take(logits, [said[row] for row in rows], _of(picks, rows), _of(tries, rows))
        for row, token in zip(rows, taken, strict=True):
            _say(said[row], token)
        going = [k for k, row in enumerate(rows) if _is_going(said[row])]
        if not going:
            return
        fed = torch.tensor(taken, device=model.device)
        if 2 * len(going) <= len(rows):
            kept = torch.tensor(going, device=model.device)
            cache.batch_select_indices(kept)
            rows = [rows[k] for k in going]
            fed, places, seen = fed[kept], places[kept], seen[kept]
        seen = torch.cat([seen, seen.new_ones(len(rows), 1)], dim=1)
        logits = model.language(
            inputs_embeds=model.language.get_input_embeddings()(fed[:, None]),
            attention_mask=seen,
            position_ids=places[:, None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        places = places + 1


def _prefill(model: AVChat, said: Sequence[Said]) -> tuple[DynamicCache, Tensor]:
    """Compute each thread's prefix once; return its keys and values a row, and the rows' mask
    [B, P]. Padding stands behind: causality hides it from the prefix, the mask from what follows.
    """
    threads = list({id(row.thread): row.thread for row in said}.values())
    cache = DynamicCache()
    media = model.project([part for thread in threads for part in thread.parts])
    ids, mask = _padded(model, [thread.prefix for thread in threads])
    if ids.shape[1]:
        model.language(
            inputs_embeds=model.embed(ids, media),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    number = {id(thread): k for k, thread in enumerate(threads)}
    of_row = torch.tensor([number[id(row.thread)] for row in said], device=model.device)
    if len(threads) < len(said):
        cache.batch_select_indices(of_row)
    return cache, mask[of_row]


def _ask(
    model: AVChat, said: Sequence[Said], cache: DynamicCache, prefixes: Tensor
) -> tuple[Tensor, Tensor]:
    """Feed the questions; return the logits [B, V] of what comes next and the mask [B, P + Q]."""
    ids, mask = _padded(model, [row.prompt[len(row.thread.prefix) :] for row in said])
    lengths = mask.sum(1)
    seen = torch.cat([prefixes, mask], dim=1)
    last, columns = torch.unique(lengths - 1, return_inverse=True)
    logits = model.language(
        inputs_embeds=model.embed(ids, []),
        attention_mask=seen,
        position_ids=prefixes.sum(1)[:, None] + torch.arange(ids.shape[1], device=ids.device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=last,
    ).logits
    return logits[torch.arange(len(said), device=ids.device), columns], seen


def _padded(model: AVChat, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Pad rows of ids on the right; return them and the mask of what is no padding."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=model.device)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    return ids.long(), torch.arange(width, device=model.device) < lengths[:, None]


def _of(values: Sequence | None, rows: Iterable[int]) -> list | None:
    return None if values is None else [values[row] for row in rows]


def _take(
    logits: Tensor, said: Sequence[Said], picks: list[Pick] | None, tries: Tries | None
) -> list[int]:
    """Take the next token of each row from logits [B, V]."""
    logits = said[0].thread.model.sayable(logits)
    if tries is not None:
        logits = logits + _allowed(tries, [row.ids for row in said], logits)
    if picks is None:
        return logits.argmax(-1).tolist()
    return [pick(row.float()) for pick, row in zip(picks, logits, strict=True)]


def _say(said: Said, token: int) -> None:
    """Add a token to an answer that goes on."""
    if not _is_going(said):
        return
    if said.thread.model.prompt.stops(token):
        said.ended = True
    else:
        said.ids.append(token)


def _is_going(said: Said) -> bool:
    return not said.ended and len(said.ids) < said.room


def _allowed(tries: Tries, said: list[list[int]], logits: Tensor) -> Tensor:
    """Return 0 for the tokens that go on with one of a row's answers, else -inf, [B, V]."""
    bars = torch.full_like(logits, -torch.inf)
    for row, (answers, ids) in enumerate(zip(tries, said, strict=True)):
        going = [answer for answer in answers if list(answer[: len(ids)]) == ids]
        following = [answer[len(ids)] for answer in going if len(answer) > len(ids)]
        bars[row, following or [0]] = 0.0  # an answer that has ended takes anything: it is not read
    return bars
