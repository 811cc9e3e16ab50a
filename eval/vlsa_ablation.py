"""Ask the questions that P2 left open, on the world: what does each loss add, does the sound help,
must it be in time, and how much should matching weigh?

    python eval/vlsa_ablation.py --output runs/ablation

Each variant begins with the chat model's projectors, is pretrained with P2's losses, then finetuned
for text to clip (and, where it hears, text to sound), then asked for unseen clips in a gallery: R@1
of text to clip with and without sound, and of text to sound. Every finished run is a line of
results.jsonl; the same command goes on where it was stopped. The table gives mean and spread
(standard deviation) over seeds.

"none" is P2's Table 5 without pretraining; "shifted" moves the sound of the training clips against
the picture, "other" takes it from another clip: all are tested on clips as they are.
"""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from tqdm import tqdm

from avchat.captions import captioned
from avchat.config import ModelError, VLSAConfig
from avchat.encoders import STATES_HZ, Features
from avchat.metrics import ranks
from avchat.model import AVChat
from avchat.pool import lesson_inputs
from avchat.training import schedule
from avchat.vlsa import VLSA, CaptionedClips
from avchat.world.captions import caption, draw_gallery
from avchat.world.lessons import Lesson, draw_lesson
from avchat.world.scenes import Scene

GROUPS = ("losses", "audio", "sync", "lambda")


@dataclass(frozen=True)
class Ablation:
    """Variants of VLSA, a few seeds each."""

    output: Path = Path("runs/ablation")
    model: str = "tiny"
    """Model whose encoders are used."""
    seeds: int = 3
    steps: int = 400
    """Steps of pretraining."""
    finetune: int = 200
    """Steps of finetuning."""
    batch: int = 64
    clips: int = 4096
    """Training clips."""
    gallery: int = 200
    groups: tuple[str, ...] = GROUPS
    """Which questions to ask: losses, audio, sync, lambda."""


@dataclass(frozen=True)
class Variant:
    """One way to pretrain; `config` changes the paper's losses."""

    group: str
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    pretrain: bool = True
    hears: bool = True  # in training
    shift_s: float | None = 0.0  # None: the sound is another clip's

    @property
    def key(self) -> str:
        """Name what is trained: the paper's own way stands in every group, and is run once."""
        return json.dumps([self.config, self.pretrain, self.hears, self.shift_s])


def variants(groups: tuple[str, ...]) -> list[Variant]:
    """List the variants of the wanted groups."""
    found = [
        Variant("losses", "none", pretrain=False),
        Variant("losses", "local", {"audio_global": False}),
        Variant("losses", "global", {"local": False}),
        Variant("losses", "both"),
        Variant("audio", "trained with sound"),
        Variant("audio", "trained without sound", {"audio_global": False}, hears=False),
    ]
    found += [Variant("sync", f"shifted {s:g} s", shift_s=s) for s in (0.0, 0.5, 1.0, 2.0)]
    found += [Variant("sync", "of another clip", shift_s=None)]
    found += [Variant("lambda", f"lambda {w:g}", {"weight_global": w}) for w in (0.01, 0.1, 1.0)]
    found += [Variant("lambda", "lambda 5")]  # the paper's
    return [variant for variant in found if variant.group in groups]


@dataclass(frozen=True)
class World:
    """Encoded clips: training clips by number, and the galleries."""

    chat: AVChat
    clips: list[Features]
    both: list[Features]
    sounds: list[Features]
    both_texts: list[str]
    sound_texts: list[str]


@torch.no_grad()
def encode_world(run: Ablation) -> World:
    """Render and encode all clips once."""
    chat = AVChat.from_pretrained(run.model)
    numbers = tqdm(range(run.clips), desc="training clips", disable=not sys.stderr.isatty())
    lessons = (draw_lesson(21, k, turns=0, sentences=0, strangers=False) for k in numbers)
    clips = [chat.encode([lesson_inputs(lesson, chat.spec)])[0] for lesson in lessons]
    galleries, texts = [], []
    for about in ("both", "sound"):
        drawn = draw_gallery(22, run.gallery, about)
        galleries.append(
            [chat.encode([lesson_inputs(unasked(scene), chat.spec)])[0] for scene, _ in drawn]
        )
        texts.append([line.text for _, line in drawn])
    return World(chat, clips, *galleries, *texts)


def unasked(scene: Scene) -> Lesson:
    """Make a lesson without questions of a scene."""
    return Lesson(scene, (), "both", independent=True)


def config_of(world: World, variant: Variant) -> VLSAConfig:
    """Give the paper's losses at a size that two cores train in a minute."""
    chat = world.chat
    config = VLSAConfig(
        kind="features",
        projector=chat.config.projector,
        vision_width=chat.vision.width,
        audio_width=chat.audio.width,
        num_patches=chat.vision.num_patches,
        frames=chat.config.frames,
        width=chat.visual_projector.width_out,
        depth=2,
        heads=5,
        feed=320,
        decoder_width=64,
        decoder_depth=1,
        decoder_heads=4,
        vocab_size=len(chat.tokenizer),
        max_text=64,
        embedding_std=0.5,
    )
    return replace(config, **variant.config)


def batch_at(
    world: World, head: VLSA, variant: Variant, seed: int, step: int, size: int
) -> CaptionedClips:
    """Draw a batch: clips at random, a fresh caption each."""
    rng = np.random.default_rng([seed, step])
    numbers = rng.choice(len(world.clips), size, replace=False)
    scenes = [draw_lesson(21, k, turns=0, sentences=0, strangers=False).scene for k in numbers]
    texts = [caption(scene, rng).text for scene in scenes]
    clips = [world.clips[k] for k in numbers]
    clips = [altered(c, clips[i - 1], variant) for i, c in enumerate(clips)]
    return captioned(head, clips, texts, ["both"] * size)


def altered(clip: Features, other: Features, variant: Variant) -> Features:
    """Give a clip as a variant trains on it: deaf, with its sound moved, or with another's."""
    if not variant.hears:
        return clip.only("picture")
    if variant.shift_s is None:
        return replace(clip, audio=other.audio)
    return replace(clip, audio=clip.audio.roll(round(variant.shift_s * STATES_HZ), 0))


def train(run: Ablation, world: World, variant: Variant, seed: int) -> VLSA:
    """Pretrain as the variant says, then finetune for lookup on the clips as they are."""
    torch.manual_seed(seed)
    head = VLSA(config_of(world, variant), world.chat.tokenizer)
    # As the bundled head does. Drawn at random they learn to see far later than to hear: after
    # 300 steps of 64 clips a head without sound still found nothing.
    head.patches.visual.load_state_dict(world.chat.visual_projector.state_dict())
    head.patches.audio.load_state_dict(world.chat.audio_projector.state_dict())
    if variant.pretrain:
        fit(run, head, lambda k: batch_at(world, head, variant, seed, k, run.batch), run.steps)
    # P2 finetunes for each task; the new parts are the text's own terms
    tuned = replace(head.config, local=False, audio_global=variant.hears)
    tuned = replace(tuned, masked_global=False, video_text=True, clip_text=True)
    finetuned = VLSA(tuned, world.chat.tokenizer)
    kept = {n: w for n, w in head.state_dict().items() if not n.startswith("matchers.")}
    finetuned.load_state_dict(kept, strict=False)
    plain = Variant("", "", hears=variant.hears)
    later = 10**6  # other batches than in pretraining
    fit(
        run,
        finetuned,
        lambda k: batch_at(world, finetuned, plain, seed, later + k, run.batch),
        run.finetune,
    )
    return finetuned.eval()


def fit(run: Ablation, head: VLSA, batches: Any, steps: int) -> None:
    """Train for some steps: AdamW, warm-up, cosine."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * schedule(step, steps, 0.05)
        (head(batches(step)).total / run.batch).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def measure(world: World, head: VLSA) -> dict[str, float]:
    """Measure R@1 of text to clip, with and without its sound, and of text to sound."""
    texts, of_sound = head.embed_texts(world.both_texts), head.embed_texts(world.sound_texts)
    found = {
        "text to clip": texts @ head.embed_clips(world.both).both.T,
        "deafened": texts @ head.embed_clips([c.only("picture") for c in world.both]).both.T,
        "text to sound": of_sound @ head.embed_clips(world.sounds).sound.T,
    }
    return {name: float((ranks(scores.numpy()) <= 1).mean()) for name, scores in found.items()}


def main(run: Ablation) -> None:
    """Run what is missing, then print the table."""
    run.output.mkdir(parents=True, exist_ok=True)
    path = run.output / "results.jsonl"
    settings = {"steps": run.steps, "finetune": run.finetune, "batch": run.batch}
    settings |= {"clips": run.clips, "gallery": run.gallery, "model": run.model}
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rows = [row for row in rows if row["settings"] == settings]
    done = {(row["variant"], row["seed"]) for row in rows}
    wanted = {(v.key, seed): v for seed in range(run.seeds) for v in variants(run.groups)}
    missing = [pair for pair in wanted if pair not in done]
    world = encode_world(run) if missing else None
    for key, seed in tqdm(missing, desc="variants", disable=not sys.stderr.isatty()):
        scores = measure(world, train(run, world, wanted[key, seed], seed))
        rows.append({"variant": key, "seed": seed, **scores, "settings": settings})
        with path.open("a") as file:
            print(json.dumps(rows[-1]), file=file)
    print(table(rows, run.groups))


def table(rows: list[dict], groups: tuple[str, ...]) -> str:
    """Lay the results out as Markdown."""
    names = ("text to clip", "deafened", "text to sound")
    lines = ["| | " + " | ".join(names) + " | seeds |", "|---" * (len(names) + 2) + "|"]
    for variant in variants(groups):
        found = [row for row in rows if row["variant"] == variant.key]
        if found:
            cells = [_spread([r[name] for r in found]) for name in names]
            lines.append(
                f"| {variant.group}: {variant.name} | {' | '.join(cells)} | {len(found)} |"
            )
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{100 * np.mean(values):.1f} +- {100 * np.std(values):.1f}"


if __name__ == "__main__":
    try:
        main(tyro.cli(Ablation, description=__doc__))
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
