"""VLSA: one transformer over local patches of video, audio and text; its global tokens find clips.

What enters is a batch of clips with a caption each; what leaves is the loss of P2 (arXiv
2405.07202), or, for use, embeddings: of the picture, of the sound, of both together, of a text.
A sense that is absent has no tokens: it is never zeros that are attended to.

Where P2 is silent the choices are ours, and marked so here and in `VLSAConfig`.

Legend: B clips, N tokens, K visible tokens, L tokens of a text, D width, E width of the decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from avchat.config import CONFIG_FILE, ModelError, VLSAConfig
from avchat.encoders import Features
from avchat.language import load_tokenizer
from avchat.matching import Matcher, contrast
from avchat.patches import FeaturePatches, Local, PixelClip, PixelPatches
from avchat.saved import TOKENIZER_FOLDER, WEIGHTS_FILE, read_weights

VIDEO, TEXT, AUDIO = range(3)  # the order of the senses in the sequence (P2, Eq. 1)
NO_WORD = -100


@dataclass(frozen=True)
class CaptionedClips:
    """Clips with a caption each."""

    clips: list[Features] | list[PixelClip]
    ids: Tensor  # [B, L], padded with 0
    words: Tensor  # bool [B, L] what of ids is there
    of_picture: Tensor  # bool [B] whether the caption speaks of what is seen
    of_sound: Tensor  # bool [B] whether it speaks of what is heard
    same: Tensor  # [B] a number for each wording, over all ranks

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CaptionedClips":
        """Return this batch on a device (accelerate calls it with `non_blocking`)."""
        names = ("ids", "words", "of_picture", "of_sound", "same")
        moved = {name: self.__dict__[name].to(device, non_blocking=non_blocking) for name in names}
        return replace(self, clips=[clip.to(device) for clip in self.clips], **moved)


class Embeddings(NamedTuple):
    """Unit vectors [B, D] of each sense, zeros where it is absent; and whether it is there [B]."""

    picture: Tensor
    sound: Tensor
    both: Tensor  # of what there is, encoded together
    seen: Tensor
    heard: Tensor


class VLSALoss(NamedTuple):
    """The loss as a sum over clips, and its parts for the log."""

    total: Tensor
    logs: dict[str, float]


class Tokens(NamedTuple):
    """Tokens [B, N, D] and which are there [B, N]."""

    tokens: Tensor
    there: Tensor


def transformer(width: int, depth: int, heads: int, feed: int) -> nn.TransformerEncoder:
    """Build a pre-norm transformer with a final norm, as ViT and MAE have it."""
    layer = nn.TransformerEncoderLayer(
        width, heads, feed, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)


class VLSA(nn.Module):
    """The tri-modal transformer of P2."""

    def __init__(self, config: VLSAConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        width = config.width
        if config.kind == "pixels":
            self.patches = PixelPatches(width)
        else:
            self.patches = FeaturePatches(
                config.projector,
                config.vision_width,
                config.audio_width,
                config.num_patches,
                width,
                config.frames,
            )
        self.words = nn.Embedding(config.vocab_size, width)
        nn.init.normal_(self.words.weight, std=config.embedding_std)
        spread = config.embedding_std
        self.word_position = nn.Parameter(spread * torch.randn(config.max_text, width))
        self.hidden_word = nn.Parameter(spread * torch.randn(width))
        self.sense = nn.Parameter(spread * torch.randn(3, width))
        self.encoder = transformer(width, config.depth, config.heads, config.feed)
        inner = config.decoder_width
        # One decoder for all three senses (P2: "shared parameters"), each decoded by itself.
        self.decoder_in, self.decoder_place = nn.Linear(width, inner), nn.Linear(width, inner)
        self.hidden_patch = nn.Parameter(0.02 * torch.randn(inner))
        self.decoder = transformer(inner, config.decoder_depth, config.decoder_heads, 4 * inner)
        values = self.patches.video_values, config.vocab_size, self.patches.audio_values
        self.tell = nn.ModuleList([nn.Linear(inner, size) for size in values])
        self.log_temperature = nn.Parameter(
            torch.tensor(float(config.temperature)).log(), requires_grad=config.learn_temperature
        )
        self.matchers = nn.ModuleDict({name: Matcher(width) for name in self.pairs})

    @property
    def pairs(self) -> list[str]:
        """Name the pairs that are matched: P2's two, and ours where the config has them."""
        names = ["audio_video", "audio_text"] if self.config.audio_global else []
        names += ["video_text"] if self.config.video_text else []
        return [*names, "clip_text"] if self.config.clip_text else names

    def forward(self, batch: CaptionedClips) -> VLSALoss:
        """Compute L_local + lambda * L_global as a sum over clips (P2, Eq. 5 to 9)."""
        locals_ = self.locals(batch)
        total = locals_[VIDEO].content.new_zeros(())
        logs = {}
        if self.config.local:
            parts = self.local_losses(locals_, batch.ids)
            total = total + sum(parts.values())
            logs |= parts
        parts = self.global_losses(locals_, batch)
        if parts:
            total = total + self.config.weight_global * sum(parts.values())
        logs |= parts
        return VLSALoss(total, {k: float(v.detach()) / len(batch.ids) for k, v in logs.items()})

    def locals(self, batch: CaptionedClips) -> list[Local]:
        """Make the local tokens of video, text and audio."""
        video, audio = self.patches(batch.clips)
        position = self.word_position[: batch.ids.shape[1]].expand(len(batch.ids), -1, -1)
        content = self.words(batch.ids)
        return [video, Local(content, content, position, batch.words), audio]

    # Local loss ---------------------------------------------------------------------------------

    def local_losses(self, locals_: list[Local], ids: Tensor) -> dict[str, Tensor]:
        """Mask patches, encode what is left together, and tell what was masked (P2, Eq. 5)."""
        visible = self.draw_visible(locals_)
        parts = []
        for sense, (local, shown) in enumerate(zip(locals_, visible, strict=True)):
            if sense == TEXT:  # as BERT: a hidden word keeps its place
                content = torch.where(shown[..., None], local.content, self.hidden_word)
                parts.append(Tokens(self._placed(sense, local, content), local.there))
            else:
                parts.append(self._visible(sense, local, shown)[0])
        states = self.encode_together(parts)
        losses = {}
        for sense, name in ((VIDEO, "local_video"), (TEXT, "local_text"), (AUDIO, "local_audio")):
            local, shown = locals_[sense], visible[sense]
            told = self.decode(sense, local, shown, states[sense])
            hidden = local.there & ~shown
            if sense == TEXT:
                wanted = torch.where(hidden, ids, NO_WORD)
                each = F.cross_entropy(told.transpose(1, 2), wanted, reduction="none")  # B L
            else:
                # MAE's normed patches (ours: P2 does not say)
                wanted = F.layer_norm(local.rows, local.rows.shape[-1:])
                each = (told - wanted).square().mean(-1)  # B N
            # a mean over the masked tokens of each clip, so that every clip counts once (ours)
            losses[name] = ((each * hidden).sum(1) / hidden.sum(1).clamp(min=1)).sum()
        return losses

    def draw_visible(self, locals_: list[Local]) -> list[Tensor]:
        """Draw which tokens stay visible: bool [B, N] for each sense; each frame by itself."""
        config = self.config
        video, text, audio = (local.there for local in locals_)
        frames = video.unflatten(1, (-1, self.patches.per_frame)) if video.shape[1] > 1 else None
        seen = video if frames is None else draw(frames, config.mask_video).flatten(1)
        heard = draw(audio[:, None], config.mask_audio)[:, 0]
        # short texts round to no hidden word; a coin for each word hides 15 % of all
        words = text & (torch.rand(text.shape, device=text.device) >= config.mask_text)
        return [seen, words, heard]

    def decode(self, sense: int, local: Local, shown: Tensor, states: Tensor) -> Tensor:
        """Tell every patch of a sense [B, N, P] from the states of the visible ones [B, K, D]."""
        encoded = self.decoder_in(states)
        if sense != TEXT:  # put the visible ones back to their places
            encoded = spread(encoded, shown, self.hidden_patch)
        tokens = encoded + self.decoder_place(local.position + self.sense[sense])
        told = run(self.decoder, Tokens(tokens, local.there))
        return self.tell[sense](told)

    # Global loss --------------------------------------------------------------------------------

    def global_losses(self, locals_: list[Local], batch: CaptionedClips) -> dict[str, Tensor]:
        """Match global tokens, each of one sense encoded by itself (P2, Eq. 6 to 9).

        Ours: by itself, since in a joint pass a token of one sense has seen the others, and no
        query could be made that way; masked or whole by `masked_global`.
        """
        hide = self.config.masked_global
        shown = self.draw_visible(locals_) if hide else [local.there for local in locals_]
        tokens, has = [], []
        for sense in (VIDEO, TEXT, AUDIO):
            token, there = self.alone(sense, locals_[sense], shown[sense])
            tokens.append(token)
            has.append(there)
        sides = {"audio": tokens[AUDIO], "video": tokens[VIDEO], "text": tokens[TEXT]}
        told = has[TEXT]
        there = {
            "audio_video": has[AUDIO] & has[VIDEO],
            "audio_text": has[AUDIO] & told & batch.of_sound,
            "video_text": has[VIDEO] & told & batch.of_picture,
            "clip_text": (has[AUDIO] | has[VIDEO]) & told,
        }
        if "clip_text" in self.pairs:
            sides["clip"] = self.clip(locals_, shown)
        tau, losses = self.log_temperature.exp(), {}
        for name in self.pairs:
            first, second = (sides[side] for side in name.split("_"))
            same = None if name == "audio_video" else batch.same
            losses[name] = contrast(first, second, there[name], tau, same)
            losses[f"{name}_match"] = self.matchers[name].loss(
                first, second, there[name], self.config.hard_negatives
            )
        return losses

    def alone(self, sense: int, local: Local, shown: Tensor) -> tuple[Tensor, Tensor]:
        """Encode one sense by itself; return its global token [B, D] and whether it is there."""
        part, _ = self._visible(sense, local, shown)
        return average(run(self.encoder, part), part.there), part.there.any(1)

    def clip(self, locals_: list[Local], shown: list[Tensor]) -> Tensor:
        """Encode picture and sound together; return the mean of their global tokens [B, D].

        Ours: the mean of two means, so that few audio tokens weigh as much as many of the picture.
        """
        senses = (VIDEO, AUDIO)
        parts = [self._visible(sense, locals_[sense], shown[sense])[0] for sense in senses]
        states = self.encode_together(parts)
        means = [average(x, part.there) for x, part in zip(states, parts, strict=True)]
        has = torch.stack([part.there.any(1) for part in parts]).to(means[0].dtype)  # 2 B
        return sum(means) / has.sum(0).clamp(min=1)[:, None]

    # Use ----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def embed_clips(self, clips: Sequence[Features] | Sequence[PixelClip]) -> Embeddings:
        """Embed clips by what is seen, by what is heard, and by both together."""
        video, audio = self.patches(list(clips))
        text = video  # takes no part
        shown = [video.there, text.there, audio.there]
        picture, seen = self.alone(VIDEO, video, video.there)
        sound, heard = self.alone(AUDIO, audio, audio.there)
        both = self.clip([video, text, audio], shown)
        units = (F.normalize(x.float(), dim=-1) for x in (picture, sound, both))
        return Embeddings(*units, seen, heard)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: unit vectors [B, D]; what is longer than `max_text` tokens is cut."""
        ids, words = self.tokenize(texts)
        ids, words = ids.to(self.words.weight.device), words.to(self.words.weight.device)
        position = self.word_position[: ids.shape[1]].expand(len(ids), -1, -1)
        content = self.words(ids)
        token, _ = self.alone(TEXT, Local(content, content, position, words), words)
        return F.normalize(token.float(), dim=-1)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenise texts: ids [B, L] padded with 0, and which are there."""
        rows = [
            self.tokenizer(
                f" {text.strip().lower()}", add_special_tokens=False, split_special_tokens=True
            ).input_ids[: self.config.max_text]
            for text in texts
        ]
        longest = max([1, *map(len, rows)])
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        return ids, torch.arange(longest)[None] < torch.tensor([len(row) for row in rows])[:, None]

    # Inside -------------------------------------------------------------------------------------

    def encode_together(self, parts: list[Tokens]) -> list[Tensor]:
        """Encode several senses as one sequence [video; text; audio]; return each one's states."""
        tokens = torch.cat([part.tokens for part in parts], dim=1)
        there = torch.cat([part.there for part in parts], dim=1)
        states = run(self.encoder, Tokens(tokens, there))
        return list(states.split([part.tokens.shape[1] for part in parts], dim=1))

    def _placed(self, sense: int, local: Local, content: Tensor) -> Tensor:
        return content + local.position + self.sense[sense]

    def _visible(self, sense: int, local: Local, shown: Tensor) -> tuple[Tokens, Tensor]:
        """Take the visible tokens of a sense out: the encoder never sees the masked ones (MAE)."""
        places, there = compact(shown)
        tokens = self._placed(sense, local, local.content)
        index = places[..., None].expand(-1, -1, tokens.shape[-1])
        return Tokens(tokens.gather(1, index), there), places

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write config, weights and tokenizer into a folder. Args: half: in 16 bits."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save(folder)
        self.tokenizer.save_pretrained(str(folder / TOKENIZER_FOLDER))
        dtype = torch.float16 if half else None
        weights = {
            name: x.detach().to("cpu", dtype).contiguous() for name, x in self.state_dict().items()
        }
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "VLSA":
        """Load what `save_pretrained` wrote; ModelError says what is wrong with the folder."""
        folder = Path(folder)
        config = VLSAConfig.load(folder)
        try:
            model = cls(config, load_tokenizer(folder / TOKENIZER_FOLDER))
            model.load_state_dict(read_weights(folder))
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"{folder}: does not fit {CONFIG_FILE} ({reason})") from error
        return model.eval()


def draw(there: Tensor, masked: float) -> Tensor:
    """Keep a part of each group's tokens at random, at least one: bool [B, G, N] -> [B, G, N]."""
    noise = torch.rand(there.shape, device=there.device) + 2.0 * ~there  # absent ones come last
    rank = noise.argsort(-1).argsort(-1)
    kept = ((1 - masked) * there.sum(-1, keepdim=True)).round().clamp(min=1)
    return (rank < kept) & there


def compact(shown: Tensor) -> tuple[Tensor, Tensor]:
    """List the places of visible tokens, in order, padded: [B, N] -> places, there [B, K]."""
    count = shown.sum(1)
    longest = max(1, int(count.max()))
    places = (~shown).int().argsort(dim=1, stable=True)[:, :longest]
    return places, torch.arange(longest, device=shown.device)[None] < count[:, None]


def spread(states: Tensor, shown: Tensor, hidden: Tensor) -> Tensor:
    """Put visible states [B, K, E] back to their places [B, N, E]; `hidden` [E] everywhere else."""
    places, there = compact(shown)
    states = torch.where(there[..., None], states, hidden.to(states.dtype))
    full = hidden.to(states.dtype).expand(*shown.shape, -1)
    return full.scatter(1, places[..., None].expand_as(states), states)


def run(network: nn.TransformerEncoder, part: Tokens) -> Tensor:
    """Run a transformer over the rows that have tokens; states of the others are zeros."""
    present = part.there.any(1)
    if bool(present.all()):
        return network(part.tokens, src_key_padding_mask=~part.there)
    # A row without any token would be a softmax over nothing. Where no row has one the network
    # still runs, on one row for nothing: each rank of a run must touch the same parameters.
    if not bool(present.any()):
        return 0.0 * network(part.tokens)
    states = network(part.tokens[present], src_key_padding_mask=~part.there[present])
    return states.new_zeros((len(present), *states.shape[1:])).index_put((present,), states)


def average(states: Tensor, there: Tensor) -> Tensor:
    """Average states over the tokens that are there: [B, N, D] -> [B, D] (P2, Eq. 6)."""
    weights = there[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)
