"""Train a lookup head: VLSA over captioned clips (P2).

    python train/vlsa.py --tiny --init tiny --output runs/tiny/vlsa
    accelerate launch train/vlsa.py --data captions.jsonl --init runs/mine/model --output runs/vlsa

With `--kind features` (ours, for use) the patches are what the frozen encoders of the model named
by `--init` saw and heard, and the head begins with that model's projectors. With `--kind pixels`
(the paper) they are pixels and spectrograms. A manifest holds one captioned clip a line, see
avchat/captions.py. Negatives are the other clips of the step on all ranks, so `--batch` matters;
`--accumulate` does not add any. `--head` goes on with a trained head, of your own or the bundled
one.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from avchat.captions import file_batch, read_captions, world_batch
from avchat.config import VLSAConfig
from avchat.data import DataError
from avchat.encoders import Inputs, encode
from avchat.heads import find_head
from avchat.language import load_tokenizer
from avchat.model import AVChat
from avchat.pool import Pool
from avchat.run_config import RunConfig
from avchat.saved import fingerprint
from avchat.script import run_script
from avchat.training import Batch, fit, micro_batch
from avchat.vlsa import VLSA, CaptionedClips, VLSALoss
from avchat.world.scenes import DURATION_S

# Sizes of the bundled head; its encoder is as wide as the tiny chat model, whose projectors it
# begins with.
TINY = VLSAConfig(
    depth=3,
    heads=5,
    feed=640,
    decoder_width=96,
    decoder_depth=1,
    decoder_heads=4,
    max_text=64,
    masked_global=False,
    temperature=0.05,
    video_text=True,
    clip_text=True,
    embedding_std=0.5,
    window_s=DURATION_S,
)


@dataclass(frozen=True)
class TrainVLSA(RunConfig):
    """A lookup head."""

    output: Path = Path("runs/vlsa")
    tiny: bool = False
    """Train the bundled head on the world; no other data needed."""
    data: Path | None = None
    """Caption manifest (JSON lines)."""
    init: str = ""
    """Model whose encoders are used: preset, folder or Hub id (with --tiny the bundled one)."""
    base: str = ""
    """Name to write down for that model (default: init)."""
    head: str = ""
    """Trained head to begin with, on the same encoders: a name, a folder or a Hub id. Sizes and
    words are its own; it must be of `--kind`."""
    stills: float = 0.0
    """Part of the clips that keep one frame alone, so that a picture finds the clip that it is
    from (ours)."""
    kind: Literal["features", "pixels"] = "features"
    tokenizer: str = "google-bert/bert-base-uncased"
    """With --kind pixels: folder or Hub id of a tokenizer (P2: BERT's)."""
    lr: float = 1e-4
    weight_decay: float = 0.01
    pool: int = 16384
    """With --tiny: clips that are rendered and encoded once."""
    weight_global: float = 5.0
    """Weight of the matching losses (the paper's lambda)."""
    local: bool = True
    """Train on masked patches as well."""
    audio_global: bool = True
    """Match sound with picture and with text (the paper's two global losses)."""
    video_text: bool = False
    """Match picture and text directly (ours; --tiny has it)."""
    clip_text: bool = False
    """Match picture and sound, encoded together, with text (ours; --tiny has it)."""
    hard_negatives: bool = False
    """Match against the likeliest wrong partner."""
    masked_global: bool = True
    """Match clips of which only the visible patches are encoded (--tiny: whole ones)."""
    learn_temperature: bool = False


class Lookup(nn.Module):
    """A head with the frozen encoders of its model, which encode clips that are not yet encoded."""

    def __init__(self, head: VLSA, chat: AVChat | None) -> None:
        super().__init__()
        self.head = head
        self.eyes_and_ears = None if chat is None else nn.ModuleList([chat.vision, chat.audio])

    def forward(self, batch: CaptionedClips) -> VLSALoss:
        """Compute the head's loss."""
        if isinstance(batch.clips[0], Inputs):
            with torch.no_grad():
                batch = replace(batch, clips=encode(batch.clips, *self.eyes_and_ears))
        return self.head(batch)


def configure(run: TrainVLSA, chat: AVChat | None, vocab_size: int) -> VLSAConfig:
    """Put the config of the head together."""
    config = with_losses(TINY if run.tiny else VLSAConfig(), run)
    config = replace(config, kind=run.kind, vocab_size=vocab_size)
    if chat is None:
        return config
    projector = chat.config.projector
    if projector.layout != "timeline":
        projector = replace(projector, layout="timeline", grid=3, audio_tokens=1)
    return replace(
        config,
        base=run.base or run.init or "tiny",
        base_fingerprint=fingerprint(encoder_weights(chat)),
        projector=projector,
        vision_width=chat.vision.width,
        audio_width=chat.audio.width,
        num_patches=chat.vision.num_patches,
        frames=chat.config.frames,
        width=chat.visual_projector.width_out if run.tiny else config.width,
    )


def with_losses(config: VLSAConfig, run: TrainVLSA) -> VLSAConfig:
    """Give a config the losses that are asked for."""
    return replace(
        config,
        weight_global=run.weight_global,
        local=run.local,
        audio_global=run.audio_global,
        video_text=run.video_text or run.tiny,
        clip_text=run.clip_text or run.tiny,
        hard_negatives=run.hard_negatives,
        masked_global=run.masked_global and not run.tiny,
        learn_temperature=run.learn_temperature,
    )


def encoder_weights(chat: AVChat) -> dict[str, torch.Tensor]:
    """Collect the weights of both encoders, named as a checkpoint names them."""
    return {
        name: x for name, x in chat.state_dict().items() if name.startswith(("vision.", "audio."))
    }


def begin(run: TrainVLSA, chat: AVChat | None) -> VLSA:
    """Build the head, with the projectors of the model where they fit."""
    tokens = load_tokenizer(run.tokenizer) if chat is None else chat.tokenizer
    config = configure(run, chat, len(tokens))
    if chat is None:
        return VLSA(config, tokens)
    head = VLSA(config, chat.tokenizer)
    if (
        config.width == chat.visual_projector.width_out
        and config.projector == chat.config.projector
    ):
        head.patches.visual.load_state_dict(chat.visual_projector.state_dict())
        head.patches.audio.load_state_dict(chat.audio_projector.state_dict())
    return head


def go_on(run: TrainVLSA, chat: AVChat | None) -> VLSA:
    """Take a trained head, with the losses that are asked for; DataError where it does not fit."""
    trained = VLSA.from_pretrained(find_head(run.head))
    if trained.config.kind != run.kind:
        raise DataError(f"{run.head}: its patches are {trained.config.kind}, not {run.kind}")
    if chat and trained.config.base_fingerprint != fingerprint(encoder_weights(chat)):
        raise DataError(
            f"{run.head}: was trained on other encoders than those of {run.init or 'tiny'}; name "
            f"with --init the model that has them ({trained.config.base})"
        )
    config = replace(with_losses(trained.config, run), threshold=None)
    head = VLSA(config, trained.tokenizer)
    odd = head.load_state_dict(trained.state_dict(), strict=False)
    differing = {name.split(".")[0] for name in (*odd.missing_keys, *odd.unexpected_keys)}
    assert differing <= {"matchers"}, "all but the pairs that are matched is the same"
    return head


def main(run: TrainVLSA) -> None:
    """Train on the world or on a manifest."""
    if not run.tiny and not run.data:
        raise DataError("give --data, a manifest of captioned clips, or --tiny")
    if run.tiny and run.kind == "pixels":
        raise DataError("--tiny trains on features; --kind pixels needs --data")
    if not 0 <= run.stills <= 1:
        raise DataError(f"--stills {run.stills:g}: must be a part, 0 to 1")
    torch.manual_seed(run.seed)
    chat = None
    if run.kind == "features":
        chat = AVChat.from_pretrained(run.init or "tiny")
        chat.requires_grad_(False)
    head = go_on(run, chat) if run.head else begin(run, chat)
    pool = Pool(chat, run.pool, run.seed) if run.tiny else None
    micro = micro_batch(run)
    files = [] if run.tiny else read_captions(run.data)

    def batch_at(number: int) -> Batch:
        if pool is not None:
            return Batch(world_batch(head, pool, number, micro, run.stills), micro)
        batch = file_batch(head, chat, files, micro, run.seed, number, run.stills)
        return Batch(batch, micro)

    trained = [p for p in head.parameters() if p.requires_grad]
    fit(
        run,
        Lookup(head, chat),
        [{"params": trained}],
        batch_at,
        save=lambda folder: head.save_pretrained(folder, half=run.tiny),
    )


if __name__ == "__main__":
    run_script(main, TrainVLSA, __doc__)
