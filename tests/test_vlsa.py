"""VLSA: each loss against a slow oracle, absent senses, two processes against one, files."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import SMALL_HEAD, small_head

from avchat.captions import captioned
from avchat.encoders import Features
from avchat.matching import Matcher, contrast
from avchat.patches import PATCH, PixelClip, PixelPatches, spectrogram, squares
from avchat.vlsa import AUDIO, TEXT, VIDEO, VLSA, CaptionedClips, compact, draw, spread

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["the red circle", "a blue square or the sound", "the red circle", "green", "a star?"]


def clips() -> list[Features]:
    """Five clips of different lengths; the second is not heard, the fourth not seen."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for k, frames in enumerate((4, 3, 4, 2, 1)):
        visual = torch.randn(frames, 16, 16, generator=generator)
        audio = torch.randn(40 + 10 * k, 16, generator=generator)
        times = tuple(0.3 * (j + 0.5) for j in range(frames))
        made.append(Features(visual, audio, times, 0.0, 0.3 * frames))
    return [made[0], made[1].only("picture"), made[2], made[3].only("sound"), made[4]]


def batch(model: VLSA) -> CaptionedClips:
    return captioned(model, clips(), TEXTS, ["both", "both", "picture", "sound", "both"])


# The global losses ------------------------------------------------------------------------------


def naive_contrast(a, b, there, tau, same=None) -> float:
    total = 0.0
    for rows, columns in ((a, b), (b, a)):
        for i in range(len(a)):
            if not there[i]:
                continue
            logits = {}
            for j in range(len(a)):
                alike = same is not None and same[i] == same[j] and i != j
                if there[j] and not alike:
                    logits[j] = float(F.cosine_similarity(rows[i], columns[j], dim=0)) / tau
            total -= logits[i] - float(torch.logsumexp(torch.tensor(list(logits.values())), 0))
    return total / 2


@pytest.mark.parametrize("same", [None, torch.tensor([1, 2, 1, 3, 4, 1])])
def test_contrast_is_the_double_loop(same: torch.Tensor | None) -> None:
    torch.manual_seed(3)
    a, b = torch.randn(6, 8), torch.randn(6, 8)
    there = torch.tensor([True, True, True, False, True, True])
    expected = naive_contrast(a, b, there, 0.2, same)
    assert float(contrast(a, b, there, 0.2, same)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("hard", [False, True])
def test_matching_is_the_double_loop(hard: bool) -> None:
    torch.manual_seed(4)
    a, b, matcher = torch.randn(5, 8), torch.randn(5, 8), Matcher(8)
    there = torch.tensor([True, False, True, True, False])
    total = 0.0
    for i in (0, 2, 3):
        others = [j for j in (0, 2, 3) if j != i]
        following = [j for j in others if j > i] or others
        alike = [float(F.cosine_similarity(norm(b[i]), norm(a[j]), dim=0)) for j in others]
        wrong = others[int(np.argmax(alike))] if hard else following[0]
        right = torch.sigmoid(matcher(norm(a[i])[None], norm(b[i])[None]))
        replaced = torch.sigmoid(matcher(norm(a[wrong])[None], norm(b[i])[None]))
        total -= float((right.log() + (1 - replaced).log()).detach()) / 2
    assert float(matcher.loss(a, b, there, hard).detach()) == pytest.approx(total, rel=1e-4)


def norm(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:])


def test_one_pair_alone_has_no_wrong_partner() -> None:
    a, there = torch.randn(3, 8), torch.tensor([False, True, False])
    assert float(Matcher(8).loss(a, a, there)) == 0
    assert float(contrast(a, a, there, 0.1)) == pytest.approx(0, abs=1e-5)


def test_global_losses_are_those_of_clips_encoded_one_by_one() -> None:
    model = small_head()
    made = batch(model)
    with torch.no_grad():
        losses = model.global_losses(model.locals(made), made)
    words = [model.embed_texts([text])[0] for text in TEXTS]
    alone = [model.embed_clips([clip]) for clip in clips()]
    heard = torch.tensor([True, False, True, True, True])
    seen = torch.tensor([True, True, True, False, True])
    of_sound = torch.tensor([True, True, False, True, True])
    of_picture = torch.tensor([True, True, True, False, True])
    sides = {
        "audio": torch.stack([e.sound[0] for e in alone]),
        "video": torch.stack([e.picture[0] for e in alone]),
        "clip": torch.stack([e.both[0] for e in alone]),
        "text": torch.stack(words),
    }
    pairs = {
        "audio_video": (heard & seen, None),
        "audio_text": (heard & of_sound, made.same),
        "video_text": (seen & of_picture, made.same),
        "clip_text": (heard | seen, made.same),
    }
    for name, (there, same) in pairs.items():
        first, second = (sides[side] for side in name.split("_"))
        expected = naive_contrast(first, second, there, SMALL_HEAD.temperature, same)
        assert float(losses[name]) == pytest.approx(expected, rel=1e-3), name


def test_the_papers_pairs_are_the_default() -> None:
    assert small_head(replace(SMALL_HEAD, video_text=False, clip_text=False)).pairs == [
        "audio_video",
        "audio_text",
    ]


TWO = """
import sys, torch, torch.distributed as dist
from avchat.matching import Matcher, contrast
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
a, b, matcher = torch.randn(8, 6), torch.randn(8, 6), Matcher(6)
there = torch.tensor([1, 1, 0, 1, 1, 1, 1, 0]).bool()
same = torch.tensor([1, 2, 3, 4, 1, 5, 6, 7])
mine = slice(4 * rank, 4 * rank + 4)
x, y = (t[mine].clone().requires_grad_() for t in (a, b))
loss = contrast(x, y, there[mine], 0.1, same[mine])
for hard in (False, True):
    loss = loss + matcher.loss(x, y, there[mine], hard)
loss.backward()
grads = [x.grad, y.grad, *(p.grad for p in matcher.parameters())]
torch.save([loss.detach(), *grads], f"{sys.argv[1]}/{rank}.pt")
dist.barrier()  # one that leaves while the other still talks may abort
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_loss_and_gradients_of_one_with_both_halves(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
    run = [*launch, "2", str(tmp_path / "two.py"), str(tmp_path)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.manual_seed(0)
    a, b, matcher = torch.randn(8, 6), torch.randn(8, 6), Matcher(6)
    there = torch.tensor([1, 1, 0, 1, 1, 1, 1, 0]).bool()
    same = torch.tensor([1, 2, 3, 4, 1, 5, 6, 7])
    a.requires_grad_(), b.requires_grad_()
    loss = contrast(a, b, there, 0.1, same)
    for hard in (False, True):
        loss = loss + matcher.loss(a, b, there, hard)
    loss.backward()
    torch.testing.assert_close(parts[0][0] + parts[1][0], loss.detach())
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), a.grad)
    torch.testing.assert_close(torch.cat([part[2] for part in parts]), b.grad)
    for k, weight in enumerate(matcher.parameters()):
        torch.testing.assert_close(parts[0][3 + k] + parts[1][3 + k], weight.grad)


# The local loss ---------------------------------------------------------------------------------


def test_local_losses_are_those_of_clips_one_by_one_without_padding(monkeypatch) -> None:
    """A double loop: each clip by itself, its hidden tokens taken out, no padding anywhere."""
    model = small_head().eval()
    made = batch(model)
    locals_ = model.locals(made)
    torch.manual_seed(7)
    visible = model.draw_visible(locals_)
    monkeypatch.setattr(model, "draw_visible", lambda _: visible)
    with torch.no_grad():
        losses = model.local_losses(locals_, made.ids)
        expected = {"local_video": 0.0, "local_text": 0.0, "local_audio": 0.0}
        for k in range(len(TEXTS)):
            for name, value in one_by_one(model, locals_, visible, made.ids, k).items():
                expected[name] += value
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(value, rel=1e-4), name


def one_by_one(model, locals_, visible, ids, k) -> dict[str, float]:
    """Compute the local losses of clip k, token by token."""
    parts, sizes = [], []
    for sense in (VIDEO, TEXT, AUDIO):
        local, shown = locals_[sense], visible[sense]
        rows = []
        for n in range(local.there.shape[1]):
            if local.there[k, n] and (shown[k, n] or sense == TEXT):
                content = local.content[k, n] if shown[k, n] else model.hidden_word
                rows.append(content + local.position[k, n] + model.sense[sense])
        parts += rows
        sizes.append(len(rows))
    states = model.encoder(torch.stack(parts)[None])[0].split(sizes)
    found = {}
    for sense, name in ((VIDEO, "local_video"), (TEXT, "local_text"), (AUDIO, "local_audio")):
        local, shown, left = locals_[sense], visible[sense], list(states[sense])
        tokens, hidden = [], []
        for n in range(local.there.shape[1]):
            if local.there[k, n]:
                told = shown[k, n] or sense == TEXT
                token = model.decoder_in(left.pop(0)) if told else model.hidden_patch
                place = model.decoder_place(local.position[k, n] + model.sense[sense])
                tokens.append(token + place)
                hidden.append((n, not shown[k, n]))
        losses = []
        if tokens:
            said = model.tell[sense](model.decoder(torch.stack(tokens)[None])[0])
            for row, (n, is_hidden) in zip(said, hidden, strict=True):
                if is_hidden and sense == TEXT:
                    losses.append(float(F.cross_entropy(row, ids[k, n])))
                elif is_hidden:
                    losses.append(float((row - norm(local.rows[k, n])).square().mean()))
        found[name] = float(np.mean(losses)) if losses else 0.0
    return found


def test_three_quarters_of_each_frame_are_hidden() -> None:
    torch.manual_seed(0)
    there = torch.ones(2, 5, 8, dtype=torch.bool)
    there[1, 3:] = False
    there[1, 2, 4:] = False
    kept = draw(there, 0.75).sum(-1)
    assert kept[0].tolist() == [2] * 5 and kept[1].tolist() == [2, 2, 1, 0, 0]


def test_fifteen_per_cent_of_the_words_are_hidden() -> None:
    model = small_head()
    long = captioned(
        model, clips() * 40, ["red circle blue square green star"] * 200, ["both"] * 200
    )
    words = model.draw_visible(model.locals(long))[TEXT]
    assert 0.10 < 1 - float(words[long.words].float().mean()) < 0.20


def test_visible_states_come_back_to_their_places() -> None:
    shown = torch.tensor([[True, False, True, True], [False, False, True, False]])
    places, there = compact(shown)
    assert places[0].tolist() == [0, 2, 3] and there.sum(1).tolist() == [3, 1]
    states = torch.arange(6.0).view(2, 3, 1)
    full = spread(states, shown, torch.tensor([-1.0]))[..., 0]
    assert full.tolist() == [[0, -1, 1, 2], [-1, -1, 3, -1]]


# Absent senses ----------------------------------------------------------------------------------


def test_an_absent_sound_is_not_zeros() -> None:
    """Alone or beside clips with sound, a deaf clip is the same; zeros would be another clip."""
    model = small_head().eval()
    mixed, alone = model.embed_clips(clips()), model.embed_clips(clips()[1:2])
    torch.testing.assert_close(mixed.both[1], alone.both[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed.both[1], mixed.picture[1], rtol=1e-4, atol=1e-5)
    assert not mixed.heard[1] and not mixed.sound[1].any() and not mixed.seen[3]
    silent = replace(clips()[1], audio=torch.zeros(40, 16))
    assert float((model.embed_clips([silent]).both[0] - alone.both[0]).abs().max()) > 1e-3


def test_a_batch_without_any_sound_trains_and_touches_every_weight() -> None:
    model = small_head()
    deaf = replace(batch(model), clips=[c.only("picture") for c in clips()[:3]] * 2)
    deaf = captioned(model, deaf.clips, ["the red circle", "green"] * 3, ["both"] * 6)
    loss = model(deaf)
    loss.total.backward()
    assert torch.isfinite(loss.total) and loss.logs["audio_text"] == pytest.approx(0, abs=1e-6)
    untouched = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not untouched, untouched


# Pixels, as in the paper ------------------------------------------------------------------------


def test_pixels_make_the_tokens_of_the_paper() -> None:
    patches = PixelPatches(8)
    frames, sound = torch.randn(8, 3, 224, 224), torch.randn(256, 256)
    video, audio = patches([PixelClip(frames, sound), PixelClip(None, sound)])
    assert video.rows.shape == (2, 1568, 768) and audio.rows.shape == (2, 256, 256)
    assert video.there.sum(1).tolist() == [1568, 0] and audio.there.all()


def test_squares_are_cut_row_by_row() -> None:
    picture = torch.arange(3 * 32 * 48.0).view(1, 3, 32, 48)
    cut = squares(picture)
    for n, (y, x) in enumerate((y, x) for y in range(2) for x in range(3)):
        square = picture[0, :, PATCH * y : PATCH * (y + 1), PATCH * x : PATCH * (x + 1)]
        assert torch.equal(cut[0, n], square.flatten())


@pytest.mark.parametrize("hz", [100.0, 440.0, 3000.0])
def test_a_tone_stands_in_its_band(hz: float) -> None:
    times = torch.arange(16_000 * 6) / 16_000
    made = spectrogram(torch.sin(2 * torch.pi * hz * times))
    assert made.shape == (256, 256)
    band = float(made[:, 100].argmax())
    assert 20 * (11_025 / 2 / 20) ** (band / 255) == pytest.approx(hz, rel=0.08)
    short = spectrogram(torch.sin(2 * torch.pi * hz * times[:16_000]))
    assert float(short[:, 60:].abs().max()) < 0.05 < float(short[:, 20].max())
