"""Projectors: which tokens a clip gets, what each is an average of, and batch = one by one."""

from dataclasses import replace

import pytest
import torch
from small import POOLED_CONFIG, TIMELINE_CONFIG, build_model, make_media

from avchat.config import OWLET, Config, ConfigError, ProjectorConfig
from avchat.encoders import SENSES, Features, Inputs
from avchat.model import AVChat
from avchat.projectors import (
    AudioProjector,
    PooledFeatures,
    VisualProjector,
    bin_means,
    plan,
    pool,
    slot_edges,
    time_features,
)

TIMELINE = ProjectorConfig(grid=2, patches="stack", audio_tokens=1, audio_bins=5)


def make_features(
    times: tuple[float, ...] = (0.25, 0.75, 1.25, 1.75),
    states: int = 100,
    start_s: float = 0.0,
    duration_s: float = 2.0,
    patches: int = 16,
) -> Features:
    """Make random features; no times mean no picture, no states no sound."""
    return Features(
        visual=torch.randn(len(times), patches, 8) if times else None,
        audio=torch.randn(states, 6) if states else None,
        frame_times_s=times,
        start_s=start_s,
        duration_s=duration_s,
    )


def plan_timeline(clip: Features, frames: int = 4) -> list[tuple]:
    slots = plan(clip, TIMELINE, frames, 16)
    return [(s.start_s, s.end_s, s.time_s, s.visual, s.audio) for s in slots]


def test_a_slot_goes_from_midpoint_to_midpoint() -> None:
    clip = make_features((0.1, 0.3, 1.1), start_s=0.0, duration_s=2.0)
    assert plan_timeline(clip) == [
        (0.0, pytest.approx(0.2), 0.1, 4, 1),
        (pytest.approx(0.2), pytest.approx(0.7), 0.3, 4, 1),
        (pytest.approx(0.7), 2.0, 1.1, 4, 1),
    ]


def test_without_a_picture_the_part_is_cut_in_equal_slots() -> None:
    clip = make_features((), start_s=10.0, duration_s=2.0)
    assert plan_timeline(clip) == [
        (10.0, 10.5, 10.25, 0, 1),
        (10.5, 11.0, 10.75, 0, 1),
        (11.0, 11.5, 11.25, 0, 1),
        (11.5, 12.0, 11.75, 0, 1),
    ]


def test_a_still_picture_beside_a_sound_track_does_not_squeeze_the_sound() -> None:
    slots = plan_timeline(make_features((0.0,), duration_s=2.0))
    assert [(visual, audio) for *_, visual, audio in slots] == [(4, 1), (0, 1), (0, 1), (0, 1)]
    alone = plan_timeline(make_features((0.0,), states=0, duration_s=0.0))
    assert alone == [(0.0, 0.0, 0.0, 4, 0)]


def test_repeated_frames_get_equal_slots() -> None:
    slots = plan_timeline(make_features((0.0, 0.0, 1.0, 1.0), duration_s=2.0))
    assert [slot[0] for slot in slots] == [0.0, 0.5, 1.0, 1.5]


def test_a_frame_shown_before_the_part_begins_keeps_its_slot_inside() -> None:
    slots = plan_timeline(make_features((9.6, 10.0, 10.5), start_s=10.0, duration_s=1.0))
    assert [slot[:2] for slot in slots] == [(10.0, 10.0), (10.0, 10.25), (10.25, 11.0)]


def test_nothing_seen_or_heard_gives_no_tokens() -> None:
    assert plan_timeline(make_features((), states=0)) == []


def test_the_papers_layout_has_829_visual_and_64_audio_tokens() -> None:
    times = tuple(k / 10 for k in range(100))
    clip = make_features(times, states=1500, duration_s=30.0, patches=1)
    slots = plan(clip, OWLET.projector, OWLET.frames, 27 * 27)
    assert [(slot.visual, slot.audio, slot.time_s) for slot in slots] == [
        (829, 0, None),
        (0, 64, None),
    ]


@pytest.mark.parametrize(
    "edges",
    [[0.0, 5.0, 10.0], [0.3, 0.6, 2.25, 9.999, 10.0], [0.5, 0.5, 1.0], [8.5, 9.5, 10.5, 11.5]],
)
def test_bin_means_are_those_of_a_slow_loop(edges: list[float]) -> None:
    states = torch.randn(2, 10, 3, dtype=torch.float64)
    means = bin_means(states, torch.tensor(edges, dtype=torch.float64))
    for j, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        overlaps = [max(0.0, min(high, s + 1) - max(low, s)) for s in range(10)]
        weights = torch.tensor(overlaps, dtype=torch.float64)
        expected = torch.einsum("s,bsd->bd", weights, states) / max(float(weights.sum()), 1e-12)
        torch.testing.assert_close(means[:, j], expected)


def test_bin_means_have_gradients_and_stay_exact_over_hours() -> None:
    states = torch.full((1, 720_000, 1), 0.1)  # four hours
    states[0, -1] = 0.7
    states.requires_grad_(True)
    means = bin_means(states, torch.tensor([0.0, 719_999.0, 720_000.0]))
    torch.testing.assert_close(means[0, :, 0], torch.tensor([0.1, 0.7]))
    means[0, 1, 0].backward()
    assert states.grad[0, -1] == 1.0 and states.grad[0, :-1].abs().max() < 1e-6


def test_a_slots_audio_token_hears_its_own_slot_only() -> None:
    projector = AudioProjector(TIMELINE, 6, 12)
    clip = make_features()
    slots = plan(clip, TIMELINE, 4, 16)
    (before,) = projector([clip], [slots])
    changed = clip.audio.clone()
    changed[50:75] += 1.0  # 1.0 s to 1.5 s: the third slot
    (after,) = projector([replace(clip, audio=changed)], [slots])
    assert (before != after).any(1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("states", [3, 100, 100_000])
def test_the_number_of_tokens_does_not_depend_on_duration(states: int) -> None:
    clip = make_features((), states=states, duration_s=states / 50)
    slots = plan(clip, TIMELINE, 4, 16)
    (tokens,) = AudioProjector(TIMELINE, 6, 12)([clip], [slots])
    assert tokens.shape == (4, 12) and tokens.isfinite().all()


def test_stacked_patches_are_the_cells_of_the_grid() -> None:
    projector = VisualProjector(TIMELINE, 8, 12, 16)
    visual = torch.randn(1, 3, 16, 8)
    pooled = projector._pool(visual)
    assert pooled.shape == (1, 3 * 4, 4 * 8)
    for frame in range(3):
        for row in range(2):
            for column in range(2):
                corner = 2 * row * 4 + 2 * column  # 4 patches a side
                cell = [visual[0, frame, corner + step] for step in (0, 1, 4, 5)]
                token = pooled[0, frame * 4 + row * 2 + column]
                assert torch.equal(token, torch.cat(cell))


def test_averaged_patches_are_the_cells_of_the_grid() -> None:
    config = replace(TIMELINE, patches="mean")
    visual = torch.randn(2, 3, 16, 8)
    pooled = VisualProjector(config, 8, 12, 16)._pool(visual)
    cell = visual[1, 2, [2, 3, 6, 7]].mean(0)  # the upper right quarter of 4 x 4 patches
    torch.testing.assert_close(pooled[1, 2 * 4 + 1], cell)


def test_a_still_picture_is_its_patches_alone() -> None:
    """As Bunny was taught: 729 tokens, not 730."""
    config = replace(TIMELINE, layout="pooled", cell_embedding=False, time_embedding=False)
    still = Inputs(torch.zeros(1, 3, 8, 8), None, 0, (0.0,), 0.0, 0.0)
    assert plan(still, config, 100, 729)[0].visual == 729
    visual = torch.randn(1, 1, 16, 8)
    torch.testing.assert_close(VisualProjector(config, 8, 12, 16)._pool(visual), visual[:, 0])


def test_pooled_is_an_average_a_frame_then_one_a_patch() -> None:
    visual = torch.randn(1, 3, 16, 8)
    pooled = VisualProjector(replace(TIMELINE, layout="pooled"), 8, 12, 16)._pool(visual)
    assert pooled.shape == (1, 3 + 16, 8)
    torch.testing.assert_close(pooled[0, 1], visual[0, 1].mean(0))
    torch.testing.assert_close(pooled[0, 3 + 5], visual[0, :, 5].mean(0))


def test_a_grid_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="4 patches a side, grid 3"):
        VisualProjector(replace(TIMELINE, grid=3), 8, 12, 16)


def test_the_mlp_has_bunnys_shape() -> None:
    """mlp2x_gelu: indices 0 and 2 of a Sequential, with the exact GELU."""
    mlp = VisualProjector(replace(TIMELINE, patches="mean"), 8, 12, 16).mlp.mlp
    assert [name for name, _ in mlp.named_parameters()] == [
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
    ]
    assert isinstance(mlp[1], torch.nn.GELU) and mlp[1].approximate == "none"


def test_time_embedding_adds_a_function_of_the_centre_since_the_start() -> None:
    config = replace(TIMELINE, time_embedding=True)
    projector = AudioProjector(config, 6, 12)
    clip = make_features((), start_s=7.0, duration_s=2.0)
    slots = plan(clip, config, 4, 16)
    (tokens,) = projector([clip], [slots])
    means = bin_means(clip.audio, (slot_edges(slots, 5) - 7.0) * 50).view(4, 30)
    centres = torch.tensor([0.25, 0.75, 1.25, 1.75])
    expected = projector.mlp.mlp(means) + projector.mlp.time(time_features(centres))
    torch.testing.assert_close(tokens, expected)


@pytest.fixture(scope="module", params=[TIMELINE_CONFIG, POOLED_CONFIG], ids=lambda c: c.name)
def model(request: pytest.FixtureRequest) -> AVChat:
    return build_model(request.param)


def test_a_batch_is_the_same_as_one_by_one(model: AVChat) -> None:
    media = [
        make_media(0),
        make_media(1),
        make_media(2, sound=False),
        make_media(3, picture=False, duration_s=1.3),
        make_media(4, frames=3, duration_s=0.7, start_s=5.0),
    ]
    clips = model.encode(media)
    clips.append(clips[0].only("none"))
    for clip, tokens in zip(clips, model.project(clips), strict=True):
        alone = model.project([clip])[0]
        assert tokens.slots == alone.slots == model.plan(clip)
        assert len(tokens.visual) == sum(slot.visual for slot in tokens.slots)
        assert len(tokens.audio) == sum(slot.audio for slot in tokens.slots)
        torch.testing.assert_close(tokens.visual, alone.visual, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(tokens.audio, alone.audio, atol=1e-5, rtol=1e-5)


def test_parameters_of_an_absent_sense_get_zero_gradients(model: AVChat) -> None:
    """Every rank of a distributed run must touch the same parameters."""
    clip = model.encode([make_media(sound=False)])[0]
    tokens = model.project([clip])[0]
    model.zero_grad()
    (tokens.visual.sum() + tokens.audio.sum()).backward()
    gradients = [weight.grad for weight in model.audio_projector.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


CLIPS = {
    "both": make_features(),
    "later": make_features((7.1, 7.3, 8.1), start_s=7.0),
    "repeated frames": make_features((0.0, 0.0, 1.0, 1.0)),
    "three repeated": make_features((0.0, 0.0, 1.0)),
    "still with sound": make_features((0.0,)),
    "still": make_features((0.0,), states=0, duration_s=0.0),
    "sound": make_features(()),
    "short sound": make_features((), states=3, duration_s=0.06),
    "picture": make_features(states=0),
    "nothing": make_features((), states=0),
}


def same(one: PooledFeatures, other: PooledFeatures) -> bool:
    """Compare all fields, tensors bit by bit."""
    pairs = [(vars(one)[name], vars(other)[name]) for name in vars(one)]
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and b is not None else a == b
        for a, b in pairs
    )


@pytest.mark.parametrize("layout", ["timeline", "pooled"])
@pytest.mark.parametrize("name", CLIPS)
def test_a_sense_of_pooled_features_is_the_sense_pooled(name: str, layout: str) -> None:
    config = replace(TIMELINE, layout=layout, cell_embedding=layout == "timeline")
    projectors = VisualProjector(config, 8, 12, 16), AudioProjector(config, 6, 12)
    clip = CLIPS[name]
    [pooled] = pool([clip], *projectors, 4)
    for sense in SENSES:
        [expected] = pool([clip.only(sense)], *projectors, 4)
        assert same(pooled.only(sense), expected), sense
        assert same(pooled.only(sense).only(sense), expected), sense
        slots = plan(clip.only(sense), config, 4, 16)
        assert plan(pooled.only(sense), config, 4, 16) == slots
        for projector in projectors:
            [whole] = projector([clip.only(sense)], [slots])
            [half] = projector([pooled.only(sense)], [slots])
            assert torch.equal(whole, half), sense
    # worth its place only where the frames cut the sound unequally
    alone = layout == "timeline" and name in ("later", "three repeated")
    assert (pooled.audio_alone is not None) == alone


def test_pooled_together_or_one_by_one_clips_are_the_same() -> None:
    projectors = VisualProjector(TIMELINE, 8, 12, 16), AudioProjector(TIMELINE, 6, 12)
    clips = list(CLIPS.values())
    for clip, together in zip(clips, pool(clips, *projectors, 4), strict=True):
        assert same(together, *pool([clip], *projectors, 4))


def test_a_model_projects_pooled_features_as_it_projects_features(model: AVChat) -> None:
    features = model.encode([make_media(0), make_media(1, sound=False), make_media(2, frames=3)])
    expected, found = model.project(features), model.project(model.pool(features))
    for one, other in zip(expected, found, strict=True):
        assert one.slots == other.slots
        assert torch.equal(one.visual, other.visual) and torch.equal(one.audio, other.audio)


def empty_outside_of_forward(module: torch.nn.Module) -> None:
    """Do to weights what DeepSpeed's ZeRO-3 does: they are there while their module runs."""

    def empty(*_: object) -> None:
        for weight in held:
            weight.data = torch.empty(0)

    def fill(*_: object) -> None:
        for weight, values in held.items():
            weight.data = values

    held = {weight: weight.data for weight in module.parameters(recurse=False)}
    module.register_forward_pre_hook(fill)
    module.register_forward_hook(empty)
    empty()


@pytest.mark.parametrize("config", [TIMELINE_CONFIG, POOLED_CONFIG], ids=lambda c: c.name)
def test_projectors_work_where_weights_are_partitioned(config: Config) -> None:
    model = build_model(config)
    clips = model.encode([make_media(0), make_media(1, sound=False)])
    clips += [clips[1].only("none")]
    expected = model.project(clips), model.project(clips[2:])
    for projector in (model.visual_projector, model.audio_projector):
        for module in projector.modules():
            empty_outside_of_forward(module)
    found = model.project(clips), model.project(clips[2:])
    for one, other in zip(sum(expected, []), sum(found, []), strict=True):
        assert torch.equal(one.visual, other.visual) and torch.equal(one.audio, other.audio)
