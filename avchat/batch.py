"""Questions answered many at a time: what an evaluation runs instead of conversations.

Enters: features of clips and a question on each. Leaves: an answer each, the same as one by one.

Legend: B rows, L tokens of a row, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from avchat.encoders import Features, Sense
from avchat.model import AVChat
from avchat.projectors import MediaTokens
from avchat.prompt import Turn, check_budget


def answer_batch(
    model: AVChat,
    clips: Sequence[Features],
    questions: Sequence[str],
    *,
    sense: Sense = "both",
    choices: Sequence[Sequence[str]] | None = None,
    max_new_tokens: int = 32,
    rows: int = 64,
) -> list[str]:
    """Answer one question on each clip, greedily, many at a time; the same as one by one.

    Args: clips: one a question (a clip that comes again in a row is projected once); choices: for
    each question the only answers there may be; rows: questions that are in memory at once.
    """
    assert len(clips) == len(questions), f"{len(clips)} clips, {len(questions)} questions"
    answers: list[str] = []
    for k in range(0, len(questions), rows):
        some = None if choices is None else choices[k : k + rows]
        chunk = clips[k : k + rows], questions[k : k + rows], some
        answers += _answer_rows(model, *chunk, sense, max_new_tokens)
    return answers


@torch.inference_mode()
def _answer_rows(
    model: AVChat,
    clips: Sequence[Features],
    questions: Sequence[str],
    choices: Sequence[Sequence[str]] | None,
    sense: Sense,
    max_new_tokens: int,
) -> list[str]:
    """Answer the rows of one batch, padded on the right; the padding stays masked in the cache."""
    heard = {id(clip): clip.only(sense) for clip in clips}
    tokens = dict(zip(heard, model.project(list(heard.values())), strict=True))
    media = [tokens[id(clip)] for clip in clips]
    prompts = []
    for clip, question in zip(media, questions, strict=True):
        turn = model.prompt.turn(Turn(question))
        prompts.append([*model.prompt.media_prefix(clip.slots).ids, *turn.ids])
        check_budget(prompts[-1], model.context)
    tries = None
    if choices is not None:
        tries = [[model.prompt.answer_ids(answer) for answer in row] for row in choices]
        max_new_tokens = max(len(answer) for row in tries for answer in row)
    said: list[list[int]] = [[] for _ in prompts]
    for rows in _together(model, prompts, max_new_tokens):
        some = None if tries is None else [tries[k] for k in rows]
        given = [prompts[k] for k in rows], [media[k] for k in rows], some
        for k, ids in zip(rows, _greedy(model, *given, max_new_tokens), strict=True):
            said[k] = ids
    return [model.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in said]


def _together(model: AVChat, prompts: list[list[int]], new: int) -> list[list[int]]:
    """List which rows are decoded together: all of them, or those of one length where the language
    model counts padding among the tokens that it looks back to.
    """
    if model.window is None or max(map(len, prompts)) + new <= model.window.size:
        return [[*range(len(prompts))]]
    alike: dict[int, list[int]] = {}
    for k, prompt in enumerate(prompts):
        alike.setdefault(len(prompt), []).append(k)
    return list(alike.values())


def _greedy(
    model: AVChat,
    prompts: list[list[int]],
    media: list[MediaTokens],
    tries: list[list[tuple[int, ...]]] | None,
    max_new_tokens: int,
) -> list[list[int]]:
    """Decode rows [B, L] together; with `tries` a row says one of its answers."""
    device, stops = model.device, model.prompt.stops
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    width = int(lengths.max())
    ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts], device=device)
    mask = torch.arange(width, device=device) < lengths[:, None]
    embeds, positions = model.embed(ids, media), None
    last, columns = torch.unique(lengths - 1, return_inverse=True)
    cache, said = DynamicCache(), [[] for _ in prompts]
    for step in range(max_new_tokens):
        logits = model.language(
            inputs_embeds=embeds,
            attention_mask=None if step == 0 else mask,  # at first causal: padding stands behind
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=last if step == 0 else 1,
        ).logits
        logits = logits[torch.arange(len(prompts)), columns if step == 0 else 0]
        logits = model.sayable(logits)  # [B, V]
        if tries is not None:
            logits = logits + _allowed(tries, said, logits)
        taken = logits.argmax(-1).tolist()
        for row, token in zip(said, taken, strict=True):
            if not row or not stops(row[-1]):
                row.append(token)
        if all(stops(row[-1]) for row in said):
            break
        positions = (lengths + step)[:, None]
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        embeds = model.language.get_input_embeddings()(torch.tensor(taken, device=device)[:, None])
    return said


def _allowed(tries: list[list[tuple[int, ...]]], said: list[list[int]], logits: Tensor) -> Tensor:
    """Return 0 for the tokens that go on with one of a row's answers, else -inf, [B, V]."""
    bars = torch.full_like(logits, -torch.inf)
    for row, (answers, ids) in enumerate(zip(tries, said, strict=True)):
        going = [answer for answer in answers if list(answer[: len(ids)]) == ids]
        following = [answer[len(ids)] for answer in going if len(answer) > len(ids)]
        bars[row, following or [0]] = 0.0  # an answer that has ended takes anything: it is not read
    return bars
