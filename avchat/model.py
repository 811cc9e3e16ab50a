"""AVChat: two encoders, two projectors and a language model, joined by a splice.

Enters: a `Batch` of token ids with placeholders and the clips they stand for. Leaves: the loss.

Legend: B rows, L tokens of a row, N media tokens, C trained columns, D width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from avchat import projectors
from avchat.card import plain_card
from avchat.checkpoints import read_checkpoint
from avchat.collate import Batch, block_mask
from avchat.config import PRESETS, Config, ModelError
from avchat.encoders import (
    AudioEncoder,
    Features,
    Inputs,
    VisionEncoder,
    build_audio,
    build_vision,
    deaf_audio,
    encode,
    input_spec,
    prepare,
)
from avchat.input_error import say
from avchat.language import (
    Bits,
    Spread,
    attach_lora,
    build_language,
    check_widths,
    context_length,
    ends_of,
    is_offloaded,
    is_spread,
    load_lora,
    load_tokenizer,
    merge_lora,
    restore_language,
    window_of,
)
from avchat.loading import before_loading
from avchat.media import Media
from avchat.projectors import AudioProjector, Encoded, MediaTokens, Slot, VisualProjector
from avchat.prompt import IGNORE, PICTURE_ID, SOUND_ID, Prompt
from avchat.push import push
from avchat.saved import (
    CARD_FILE,
    find_checkpoint,
    is_unbundled,
    pinned,
)
from avchat.transcripts import Transcriber, TranscriptError
from avchat.weights import language_of, load_weights, save

if TYPE_CHECKING:
    from avchat import Conversation


class Loss(NamedTuple):
    """Sums over a batch. Divide by the weight of the whole optimiser step, over all ranks."""

    total: Tensor  # weighted cross entropy, summed
    weight: Tensor  # of the trained tokens, summed: their number where all weights are 1
    correct: Tensor  # trained tokens that would have been said
    tokens: Tensor  # trained tokens

    @property
    def logs(self) -> dict[str, float]:
        """Name what a training log shows: the part of trained tokens that would have been said."""
        return {"right": float(self.correct / self.tokens.clamp(min=1))}


class AVChat(nn.Module):
    """A language model that sees and hears. The parts are built elsewhere and handed in.

    Args: language: a causal LM of Transformers, or one wrapped by peft.
    """

    def __init__(
        self,
        config: Config,
        vision: VisionEncoder,
        audio: AudioEncoder,
        visual_projector: VisualProjector,
        audio_projector: AudioProjector,
        language: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.vision, self.audio = vision, audio
        self.visual_projector, self.audio_projector = visual_projector, audio_projector
        self.language = language
        self.prompt = Prompt(config.prompt, tokenizer, ends_of(language))
        self.spec = replace(input_spec(vision, audio, config.vision), hears=config.hears)
        self.context = context_length(language.config)
        self.window = window_of(language.config)
        self.num_tokens = 1 + max(tokenizer.get_vocab().values())
        # names of weights of Hub bases that a checkpoint has changed: they are saved with it
        self.changed: set[str] = set()
        # the folder with the language model's weights, where those in memory are in 4 or 8 bit
        self.unquantised: Path | None = None
        self.card = ""  # of the folder that it was loaded from
        self.steps: dict[int, Any] = {}  # static_decoding.py's buffers, by their columns

    @classmethod
    def from_config(
        cls,
        config: Config,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        bits: Bits | None = None,
        spread: Spread | None = None,
        lora: bool = True,
        language: nn.Module | None = None,
    ) -> "AVChat":
        """Build a model from its config: bases from the Hub, frozen; the rest with random weights.

        Args: tokenizer: None for the language base's own; dtype: of vision and language model,
        the rest stays in fp32; lora: attach fresh adapters where the config asks for them;
        language: the language model, where the caller has built it; bits, spread: see
        `build_language`.
        """
        tokenizer = tokenizer or load_tokenizer(config.language.hub, config.language.revision)
        if config.language.inline is not None:
            ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
            inline = {**config.language.inline, **ids, "bos_token_id": None}
            inline["vocab_size"] = len(tokenizer)
            config = replace(config, language=replace(config.language, inline=inline))
        vision = build_vision(config.vision).to(dtype)
        # in fp32 always: Whisper's norms compute in no other
        audio = build_audio(config.audio) if config.hears else deaf_audio()
        if language is None:
            language = build_language(config.language, dtype=dtype, bits=bits, spread=spread)
        for part, base in ((config.vision, vision), (config.audio, audio)):
            base.requires_grad_(part.hub is None)
        language.requires_grad_(config.language.hub is None)
        width = language.get_input_embeddings().embedding_dim
        if lora and config.language.lora is not None:
            language = attach_lora(language, config.language.lora)
        heads = (
            VisualProjector(config.projector, vision.width, width, vision.num_patches),
            AudioProjector(config.projector, audio.width, width).requires_grad_(config.hears),
        )
        return cls(pinned(config), vision, audio, *heads, language, tokenizer)

    @property
    def device(self) -> torch.device:
        """Return where the projectors are."""
        return self.visual_projector.mlp.mlp[0].weight.device

    def plan(self, clip: Inputs | Features | projectors.PooledFeatures) -> tuple[Slot, ...]:
        """Lay out a clip's media tokens, from its times alone."""
        return projectors.plan(
            clip, self.config.projector, self.config.frames, self.vision.num_patches
        )

    def sayable(self, logits: Tensor) -> Tensor:
        """Leave out of logits [..., V] the ids that no text has: vocabularies are padded."""
        return logits[..., : self.num_tokens]

    def prepare(self, media: Media) -> Inputs:
        """Make a decoded clip ready for the encoders (on the CPU)."""
        return prepare(media, self.spec)

    def encode(self, clips: Sequence[Media | Inputs], chunk: int = 32) -> list[Features]:
        """Encode clips. Args: chunk: frames, or Whisper windows, that are in memory at once."""
        inputs = [clip if isinstance(clip, Inputs) else self.prepare(clip) for clip in clips]
        return encode([clip.to(self.device) for clip in inputs], self.vision, self.audio, chunk)

    def pool(self, clips: Sequence[Features]) -> list[projectors.PooledFeatures]:
        """Pool encoded clips as the projectors do: what of frozen encoders is worth keeping."""
        heads = self.visual_projector, self.audio_projector
        return projectors.pool(list(clips), *heads, self.config.frames)

    def project(self, clips: Encoded) -> list[MediaTokens]:
        """Project clips to tokens of the language model."""
        heads = self.visual_projector, self.audio_projector
        return projectors.project(clips, *heads, self.config.frames)

    def embed(self, ids: Tensor, tokens: Sequence[MediaTokens]) -> Tensor:
        """Embed ids [B, L]; overwrite the placeholders with the clips' tokens, row by row."""
        embeds = self.language.get_input_embeddings()(ids.clamp(min=0))  # [B, L, D]
        for placeholder, parts in (
            (PICTURE_ID, [clip.visual for clip in tokens]),
            (SOUND_ID, [clip.audio for clip in tokens]),
        ):
            at, count = ids == placeholder, sum(len(part) for part in parts)
            assert int(at.sum()) == count, f"{int(at.sum())} placeholders, {count} media tokens"
            if parts:
                # not in place: peft makes the embeddings a leaf when it prepares a 4-bit base
                rows = torch.cat(parts).to(embeds.dtype)
                embeds = embeds.masked_scatter(at[..., None], rows)
        return embeds

    def forward(self, batch: Batch, tokens: Sequence[MediaTokens] | None = None) -> Loss:
        """Compute the loss of a batch, as sums.

        Args: tokens: the clips' projected tokens, where the caller has them already.
        """
        if tokens is None:
            clips = batch.clips
            if isinstance(clips[0], Inputs):
                clips = encode(clips, self.vision, self.audio)
            tokens = self.project(clips)
        embeds = self.embed(batch.ids, tokens)
        logits = self.language(
            inputs_embeds=embeds,
            attention_mask=self._mask(batch, embeds.dtype),
            position_ids=batch.positions,
            use_cache=False,
            logits_to_keep=batch.columns,
        ).logits.float()  # [B, C, V]
        targets = batch.labels[:, batch.columns + 1]
        weights = batch.weights[:, batch.columns + 1] * (targets != IGNORE)
        losses = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none"
        )
        return Loss(
            total=(losses * weights.flatten()).sum(),
            weight=weights.sum(),
            correct=(logits.detach().argmax(-1) == targets).sum(),
            tokens=(targets != IGNORE).sum(),
        )

    def _mask(self, batch: Batch, dtype: torch.dtype) -> Tensor | dict[str, Tensor] | None:
        """Write down who sees whom, for each kind of layer; None where rows are plainly causal."""
        if batch.blocks is None:
            return None
        mask, window = block_mask(batch.blocks, dtype), self.window
        if window is None:
            return mask
        near = block_mask(batch.blocks, dtype, batch.positions, window.size)
        return {"full_attention": mask, "sliding_attention": near} if window.mixed else near

    def open(self, path: str | Path, **options: Any) -> "Conversation":
        """Begin a conversation about a file; options as in `Conversation.open`."""
        from avchat import Conversation  # by the package's door: chat.py stands on this file

        return Conversation.open(self, path, **options)

    def learn_to_hear(self) -> None:
        """Get the Whisper of a model that was never taught to hear, and a fresh audio projector,
        which is about to be trained.
        """
        if self.config.hears:
            return
        config = replace(self.config, hears=True)
        try:
            self.audio = build_audio(config.audio).requires_grad_(False).to(self.device)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"audio {config.audio.hub}: not to be had ({reason})") from error
        self.config = config
        width = self.language.get_input_embeddings().embedding_dim
        self.audio_projector = AudioProjector(config.projector, self.audio.width, width)
        self.audio_projector.to(self.device)
        self.spec = input_spec(self.vision, self.audio, config.vision)

    @cached_property
    def transcriber(self) -> Transcriber:
        """Return the Whisper that hears, with its own decoder, which is loaded when first needed.

        It shares the weights of the encoder. One that was trained further has left its decoder
        behind: there the whole published Whisper is loaded. TranscriptError where there is none.
        """
        name, device = self.config.audio.hub, str(self.device)
        if name is None:
            raise TranscriptError(
                f"{self.config.name} hears with an encoder that no decoder goes with: name a "
                "Whisper that transcribes (--whisper base, or a .pt file)"
            )
        lent = self.config.hears and not any(w.startswith("audio.") for w in self.changed)
        return Transcriber(name, device, encoder=self.audio.whisper if lent else None)

    def merge(self) -> None:
        """Fold LoRA adapters into the language model, which is then saved whole."""
        self.language = merge_lora(self.language)
        self.config = replace(self.config, language=replace(self.config.language, lora=None))
        self.changed |= {f"language.{name}" for name in self.language.state_dict()}

    def save_pretrained(self, folder: str | Path, *, card: str | None = None) -> None:
        """Write config, weights, tokenizer, adapters and a model card into a folder.

        Args: card: the text of README.md; None for a plain one.
        """
        if is_offloaded(self.language):
            raise ModelError("a model that is offloaded cannot be saved: load it without --offload")
        save(self, Path(folder), card or plain_card(self.config))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        bits: Bits | None = None,
        spread: Spread | None = None,
        trainable: bool = False,
        adapters: bool = True,
    ) -> "AVChat":
        """Load a bundled model, a folder or a Hub id; ModelError says why it is none of them.

        What is to be fetched is said on stderr first, and what cannot fit is refused.

        Args: device: None for CUDA where there is one; dtype: None for fp32 on the CPU and bf16
        elsewhere; bits, spread: see `build_language`; trainable: to be trained further: with
        adapters that learn where the config asks for them, and from published bases where a preset
        has no more; adapters: attach fresh ones then, where a checkpoint has none.
        """
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
        how = {"dtype": dtype, "bits": bits, "spread": spread}
        how["spread"] = before_loading(str(name), device=device, trainable=trainable, **how)
        try:
            if trainable and is_unbundled(str(name)):
                base = PRESETS[str(name)]
                return cls.from_config(base, lora=adapters, **how).place(device)
            found = read_checkpoint(find_checkpoint(str(name)), Path(name).name)
            for line in found.found:
                say(f"{name}: {line}")
            config, weights, language = found.config, found.weights(), None
            tokenizer = load_tokenizer(found.tokenizer)
            if found.architecture is not None:  # all of it is here: the base is not asked for
                whole = language_of(weights, "")
                language = restore_language(found.architecture, whole, **how)
            model = cls.from_config(config, tokenizer, lora=False, language=language, **how)
            if device.type == "cpu" and not trainable:
                check_widths(model.language)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"{name}: a part could not be loaded ({reason})") from error
        if language is not None and bits is not None:
            model.unquantised = found.folder
        load_weights(model, found.where, weights, restored=language is not None)
        if (found.folder / CARD_FILE).is_file():
            model.card = (found.folder / CARD_FILE).read_text(encoding="utf-8")
        if found.adapter is not None:
            model.language = load_lora(model.language, found.adapter, trainable=trainable)
        elif trainable and adapters and config.language.lora is not None:
            model.language = attach_lora(model.language, config.language.lora)
        return model.place(device).eval()

    def place(self, device: torch.device) -> "AVChat":
        """Move the model to a device; a language model that is spread stays where it is."""
        if not is_spread(self.language):
            return self.to(device)
        for part in (self.vision, self.audio, self.visual_projector, self.audio_projector):
            part.to(device)
        return self

    def push_to_hub(self, repo_id: str, *, private: bool = True, card: str | None = None) -> None:
        """Save to the Hugging Face Hub, as `save_pretrained` writes it; PushError says why not."""
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, card=card)
            push(Path(folder), repo_id, private=private)
