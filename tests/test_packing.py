"""Rows that hold several samples: full, and none of them can tell."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import POOLED_CONFIG, TIMELINE_CONFIG, build_model, make_media

from avchat.collate import block_mask, collate
from avchat.config import Config
from avchat.model import AVChat
from avchat.packing import fill_rows, group_alike
from avchat.prompt import Packed, Turn, join_rows

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)


@given(LENGTHS, st.integers(10, 400))
def test_every_item_lies_in_one_row_and_no_row_is_too_full(lengths: list, capacity: int) -> None:
    rows = fill_rows(lengths, capacity)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    for row in rows:
        assert len(row) == 1 or sum(lengths[k] for k in row) <= capacity
    lowest = sum(min(length, capacity) for length in lengths) / capacity
    assert len(rows) <= 1 + 2 * lowest  # no two rows would fit into one


def test_packed_rows_pad_less_than_a_twentieth() -> None:
    """Conversations of 300 to 900 tokens in rows of 2048, as the `timeline` preset has them."""
    lengths = np.random.default_rng(0).integers(300, 900, 500).tolist()
    rng = np.random.default_rng(1)
    rows = fill_rows(lengths, 2048, rng)
    assert {tuple(sorted(row)) for row in rows} != {
        tuple(sorted(row)) for row in fill_rows(lengths, 2048, rng)
    }, "each epoch joins other samples"
    padding = 1 - sum(lengths) / (len(rows) * 2048)
    assert padding < 0.05, f"{padding:.1%}"
    one_by_one = 1 - np.mean(lengths) / np.max(lengths)
    assert one_by_one > 4 * padding


@given(LENGTHS, st.integers(1, 8))
def test_groups_are_alike_and_nothing_is_lost(lengths: list, group: int) -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(lengths)).tolist()
    again = group_alike(lengths, order, group, rng)
    assert sorted(again) == list(range(len(lengths)))

    def places(items: list) -> int:
        rows = [items[k : k + group] for k in range(0, len(items), group)]
        return sum(max(lengths[k] for k in row) * len(row) for row in rows)

    assert places(again) <= places(order) + max(lengths) * group


def rows_of(model: AVChat) -> tuple[list[Packed], list]:
    """Lay out conversations of every kind: both senses, each alone, neither, of text alone."""
    media = [
        make_media(0),
        make_media(1, sound=False),
        make_media(2, picture=False, duration_s=1.2),
        make_media(3, start_s=1.0, duration_s=3.0),
    ]
    with torch.no_grad():
        clips = model.encode(media)
    clips.append(clips[0].only("none"))
    turns = [
        [Turn("which object?", "the red circle"), Turn("the sound?", "a blue square.")],
        [Turn("which object makes the sound?", "no sound")],
        [Turn("the star?", "green")],
        [Turn("no picture?", "the green star or the red circle."), Turn("red?", "a")],
        [Turn("which?", "which")],
    ]
    rows = [
        model.prompt.build(model.plan(clip), said) for clip, said in zip(clips, turns, strict=True)
    ]
    rows.append(model.prompt.build(None, [Turn("a square?", "the blue square")]))
    clips.append(clips[-1])
    return rows, clips


@pytest.mark.parametrize("config", [TIMELINE_CONFIG, POOLED_CONFIG], ids=["timeline", "pooled"])
def test_packed_rows_learn_what_padded_rows_learn(config: Config) -> None:
    """The oracle is one row a sample; the same loss, and the same gradient of every weight."""
    padded, packed = build_model(config), build_model(config)
    rows, clips = rows_of(padded)
    one = padded(collate(rows, clips))
    one.total.backward()
    joined = [join_rows(rows[:3]), join_rows(rows[3:5]), rows[5]]
    many = packed(collate(joined, clips))
    many.total.backward()
    assert int(many.tokens) == int(one.tokens) and int(many.correct) == int(one.correct)
    torch.testing.assert_close(many.total, one.total, rtol=1e-5, atol=1e-5)
    theirs = dict(padded.named_parameters())
    learned = 0
    for name, weight in packed.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(
                weight.grad, theirs[name].grad, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: n + m
            )
            learned += 1
    assert learned > 20


def test_a_sample_in_a_row_does_not_see_its_neighbours() -> None:
    model = build_model()
    rows, clips = rows_of(model)
    pair = collate([join_rows(rows[:2])], clips[:2])
    mask = block_mask(pair.blocks, torch.float32)[0, 0] == 0
    first = len(rows[0].ids)
    assert not mask[first:, :first].any() and not mask[:first, first:].any()
    assert pair.positions[0, first] == 0
    loud = replace(clips[0], audio=clips[0].audio + 3)

    def loss_of_second(clip: object) -> torch.Tensor:
        quiet = replace(rows[0], weights=(0.0,) * len(rows[0].weights))
        return model(collate([join_rows([quiet, rows[1]])], [clip, clips[1]])).total

    assert torch.equal(loss_of_second(clips[0]), loss_of_second(loud))
