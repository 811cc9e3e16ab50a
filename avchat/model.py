"""AVChat: two encoders, two projectors and a language model, joined by a splice.

Enters: a `Batch` of token ids with placeholders and the clips they stand for. Leaves: the loss.

Legend: B rows, L tokens of a row, N media tokens, C trained columns, D width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from avchat import projectors
from avchat.card import plain_card
from avchat.collate import Batch, block_mask
from avchat.config import CONFIG_FILE, PRESETS, Config, ModelError
from avchat.encoders import (
    AudioEncoder,
    Features,
    Inputs,
    VisionEncoder,
    build_audio,
    build_vision,
    encode,
    input_spec,
    prepare,
)
from avchat.language import (
    Bits,
    attach_lora,
    build_language,
    has_lora,
    load_lora,
    load_tokenizer,
    merge_lora,
    restore_language,
    save_lora,
)
from avchat.media import Media
from avchat.projectors import AudioProjector, Encoded, MediaTokens, Slot, VisualProjector
from avchat.prompt import IGNORE, PICTURE_ID, SOUND_ID, Prompt
from avchat.push import push
from avchat.saved import (
    ADAPTER_FOLDER,
    CARD_FILE,
    LANGUAGE_FOLDER,
    TOKENIZER_FOLDER,
    WEIGHTS_FILE,
    commit_of,
    find_checkpoint,
    is_unbundled,
    own_prefixes,
    read_weights,
)
from avchat.weights import language_of, own_weights, save_language_architecture

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
        self.prompt = Prompt(config.prompt, tokenizer)
        self.spec = input_spec(vision, audio, config.vision)
        self.context: int = language.config.max_position_embeddings
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
        lora: bool = True,
        language: nn.Module | None = None,
    ) -> "AVChat":
        """Build a model from its config: bases from the Hub, frozen; the rest with random weights.

        Args: tokenizer: None for the language base's own; dtype: of vision and language model,
        the rest stays in fp32; lora: attach fresh adapters where the config asks for them;
        language: the language model, where the caller has built it.
        """
        tokenizer = tokenizer or load_tokenizer(config.language.hub, config.language.revision)
        if config.language.inline is not None:
            ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
            inline = {**config.language.inline, **ids, "bos_token_id": None}
            inline["vocab_size"] = len(tokenizer)
            config = replace(config, language=replace(config.language, inline=inline))
        vision = build_vision(config.vision).to(dtype)
        audio = build_audio(config.audio)  # in fp32 always: Whisper's norms compute in no other
        language = language or build_language(config.language, dtype=dtype, bits=bits)
        for part, base in ((config.vision, vision), (config.audio, audio)):
            base.requires_grad_(part.hub is None)
        language.requires_grad_(config.language.hub is None)
        width = language.get_input_embeddings().embedding_dim
        if lora and config.language.lora is not None:
            language = attach_lora(language, config.language.lora)
        return cls(
            _pinned(config),
            vision,
            audio,
            VisualProjector(config.projector, vision.width, width, vision.num_patches),
            AudioProjector(config.projector, audio.width, width),
            language,
            tokenizer,
        )

    @property
    def device(self) -> torch.device:
        """Return where the projectors are."""
        return self.visual_projector.mlp.mlp[0].weight.device

    def plan(self, clip: Inputs | Features | projectors.PooledFeatures) -> tuple[Slot, ...]:
        """Lay out a clip's media tokens, from its times alone."""
        return projectors.plan(
            clip, self.config.projector, self.config.frames, self.vision.num_patches
        )

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
            attention_mask=None if batch.blocks is None else block_mask(batch.blocks, embeds.dtype),
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

    def open(self, path: str | Path, **options: Any) -> "Conversation":
        """Begin a conversation about a file; options as in `Conversation.open`."""
        from avchat import Conversation  # by the package's door: chat.py stands on this file

        return Conversation.open(self, path, **options)

    def merge(self) -> None:
        """Fold LoRA adapters into the language model, which is then saved whole."""
        self.language = merge_lora(self.language)
        self.config = replace(self.config, language=replace(self.config.language, lora=None))
        self.changed |= {f"language.{name}" for name in self.language.state_dict()}

    def save_pretrained(self, folder: str | Path, *, card: str | None = None) -> None:
        """Write config, weights, tokenizer, adapters and a model card into a folder.

        Args: card: the text of README.md; None for a plain one.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save(folder)
        self.tokenizer.save_pretrained(str(folder / TOKENIZER_FOLDER))
        save_file(own_weights(self), folder / WEIGHTS_FILE, metadata={"format": "pt"})
        save_language_architecture(self, folder / LANGUAGE_FOLDER)
        if has_lora(self.language):
            save_lora(self.language, folder / ADAPTER_FOLDER)
        (folder / CARD_FILE).write_text(card or plain_card(self.config), encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        bits: Bits | None = None,
        trainable: bool = False,
        adapters: bool = True,
    ) -> "AVChat":
        """Load a bundled model, a folder or a Hub id; ModelError says why it is none of them.

        Args: device: None for CUDA where there is one; dtype: None for fp32 on the CPU and bf16
        elsewhere; bits: see `build_language`; trainable: to be trained further: with adapters that
        learn where the config asks for them, and from published bases where a preset has no more;
        adapters: attach fresh ones then, where a checkpoint has none.
        """
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
        try:
            if trainable and is_unbundled(str(name)):
                base = PRESETS[str(name)]
                return cls.from_config(base, dtype=dtype, bits=bits, lora=adapters).to(device)
            folder = find_checkpoint(str(name))
            config, tokenizer = Config.load(folder), load_tokenizer(folder / TOKENIZER_FOLDER)
            weights, language = read_weights(folder), None
            if (folder / LANGUAGE_FOLDER).is_dir():  # all of it is here: the base is not asked for
                whole = language_of(weights, "")
                language = restore_language(folder / LANGUAGE_FOLDER, whole, dtype=dtype, bits=bits)
            made = {"dtype": dtype, "bits": bits, "lora": False, "language": language}
            model = cls.from_config(config, tokenizer, **made)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"{name}: a part could not be loaded ({reason})") from error
        if language is not None and bits is not None:
            model.unquantised = folder
        model._load_weights(folder / WEIGHTS_FILE, weights, restored=language is not None)
        if (folder / CARD_FILE).is_file():
            model.card = (folder / CARD_FILE).read_text(encoding="utf-8")
        adapter = folder / ADAPTER_FOLDER
        if adapter.is_dir():
            model.language = load_lora(model.language, adapter, trainable=trainable)
        elif trainable and adapters and config.language.lora is not None:
            model.language = attach_lora(model.language, config.language.lora)
        return model.to(device).eval()

    def _load_weights(self, path: Path, weights: dict[str, Tensor], *, restored: bool) -> None:
        """Load what was read from a file; every weight that no base brings must be there.

        Args: restored: the language model was built from them already.
        """
        self.changed |= set(weights)
        if restored:
            weights = {n: w for n, w in weights.items() if not n.startswith("language.")}
        own = self.state_dict()
        other = [n for n, w in weights.items() if n in own and w.shape != own[n].shape]
        if other:
            shapes = (" x ".join(map(str, x[other[0]].shape)) for x in (weights, own))
            reason = "{} is {} in the file and {} by the config".format(other[0], *shapes)
            raise ModelError(
                f"{path}: does not fit {CONFIG_FILE} ({len(other)} weights of another shape; "
                f"{reason})"
            )
        missing, unknown = self.load_state_dict(weights, strict=False)
        built = own_prefixes(self.config)
        missing = [name for name in missing if name.startswith(built)]
        if missing or unknown:
            wrong = ", ".join([*missing, *unknown][:3])
            raise ModelError(
                f"{path}: {len(missing)} weights missing, {len(unknown)} unknown ({wrong}, ...)"
            )

    def push_to_hub(self, repo_id: str, *, private: bool = True, card: str | None = None) -> None:
        """Save to the Hugging Face Hub, as `save_pretrained` writes it; PushError says why not."""
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, card=card)
            push(Path(folder), repo_id, private=private)


def _pinned(config: Config) -> Config:
    """Write the commits that were loaded into the config, so that a checkpoint names its bases."""
    vision, language = config.vision, config.language
    seen = commit_of(vision.hub, vision.revision) or vision.revision
    said = commit_of(language.hub, language.revision) or language.revision
    return replace(
        config,
        vision=replace(vision, revision=seen),
        language=replace(language, revision=said),
    )
