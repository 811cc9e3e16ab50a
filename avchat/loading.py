"""What loading a model fetches and needs, said before it begins.

Enters: a model's name, as `AVChat.from_pretrained` takes it. Leaves: a `Plan`, which the loader
checks and `avchat doctor --model` prints.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from transformers import AutoConfig, PreTrainedConfig

from avchat.bunny import phi_config
from avchat.checkpoints import BUNNY_TYPE, read_checkpoint
from avchat.config import CONFIG_FILE, MODEL_TYPE, OWLET, PRESETS, Config, ModelError
from avchat.fetching import (
    Source,
    base_source,
    cached_folder,
    model_source,
    whisper_source,
)
from avchat.input_error import say
from avchat.language import Bits, Spread, check_bits
from avchat.published import AUDIO_FILE, MERGED, PUBLISHED
from avchat.saved import (
    ADAPTER_FOLDER,
    LANGUAGE_FOLDER,
    find_checkpoint,
    is_unbundled,
    local_checkpoint,
)
from avchat.sizes import Counts, Unknown, count, free_memory, memory, precision_of
from avchat.weight_files import check_whole, read_header

IGNORE = "AVCHAT_IGNORE_MEMORY"  # set to 1: load even where the count says that it does not fit


@dataclass(frozen=True)
class Plan:
    """A model that is not loaded yet: its config, where its parts come from, what it counts."""

    name: str
    config: Config
    sources: tuple[Source, ...]
    language: PreTrainedConfig | None = None  # the architecture, where it is not the base's
    adapters: int = 0  # values of LoRA

    @property
    def absent(self) -> tuple[Source, ...]:
        """Return what is to be fetched."""
        return tuple(source for source in self.sources if not source.here)

    def count(self) -> Counts:
        """Count the model's values; Unknown where an architecture cannot be read."""
        return count(self.config, self.language, self.adapters)


def plan_of(name: str) -> Plan:
    """Find out what a name stands for; at most small files are fetched.

    Raises:
        Unknown: it is in a form that this file does not read, or nobody tells how it is built.
        ModelError: no such model; or it is not here, and the Hub cannot be reached.
    """
    if is_unbundled(name) and not Path(name).is_dir():
        return Plan(name, PRESETS[name], bases_of(PRESETS[name]))
    folder = local_checkpoint(name)
    if folder is not None:
        return _plan_of_folder(name, folder, ())
    if name.count("/") != 1:
        find_checkpoint(name)  # says why it is none
    source = model_source(name)
    folder = cached_folder(name)
    if folder is None and name in MERGED and source.known != "the Hub":
        return _merged(name, AutoConfig.for_model(**PUBLISHED[name].architecture), (source,))
    if folder is None and source.known == "nobody":
        raise ModelError(
            f"{name}: not a folder, not on this machine, and the Hub could not be asked whether it "
            f"has such a model ({source.note}); {by_hand(source)}"
        )
    if folder is None and source.known != "the Hub":
        raise Unknown(f"{name}: a base that models stand on, not a model that can be asked")
    return _plan_of_folder(name, folder or _fetch_config(name, source), (source,))


def by_hand(source: Source) -> str:
    """Say how to bring a source to a machine without the internet."""
    if source.part == "model":
        return f"where there is a network: {source.get}, copy DIR here, then --model DIR"
    if source.part == "audio":
        return f"where there is a network, fetch it, then {source.get}"
    return f"where there is a network: hf download {source.name}; copy its cache here (HF_HOME)"


def _fetch_config(name: str, source: Source) -> Path:
    """Fetch a repository's config.json alone; give the folder in the cache where it lies."""
    if CONFIG_FILE not in {file.name for file in source.files}:
        raise Unknown(f"{name}: no {CONFIG_FILE} in this repository, so its size is not known")
    try:
        return Path(hf_hub_download(name, CONFIG_FILE)).parent
    except OSError as error:  # a repository that asks for consent shows its files' names alone
        reason = str(error).splitlines()[0]
        raise ModelError(f"{name}: {CONFIG_FILE} cannot be fetched ({reason})") from error


def _plan_of_folder(name: str, folder: Path, sources: tuple[Source, ...]) -> Plan:
    """Read what kind of model a folder with a config.json is; its weights need not be there."""
    try:
        kind = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        kind = kind.get("model_type", "")
    except (OSError, ValueError, AttributeError) as error:
        raise Unknown(f"{folder / CONFIG_FILE}: not readable as a configuration") from error
    if kind == BUNNY_TYPE and (not sources or sources[0].here):
        found = read_checkpoint(folder, name)
        own = sources or (replace(model_source(str(folder)), name=name),)
        bases = bases_of(found.config, whole=found.architecture is not None)
        return Plan(name, found.config, (*own, *bases), found.architecture)
    if kind == BUNNY_TYPE:
        fields = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return _merged(name, phi_config(fields), sources)
    if kind != MODEL_TYPE:
        raise Unknown(
            f"{name}: a model of the type {kind or 'unknown'}, whose size avchat cannot tell"
        )
    config = Config.load(folder)
    whole = (folder / LANGUAGE_FOLDER / CONFIG_FILE).is_file()
    language = AutoConfig.from_pretrained(str(folder / LANGUAGE_FOLDER)) if whole else None
    adapter = folder / ADAPTER_FOLDER / "adapter_model.safetensors"
    values = sum(t.count for t in read_header(adapter).values()) if adapter.is_file() else 0
    return Plan(name, config, (*sources, *bases_of(config, whole=whole)), language, values)


def _merged(name: str, language: PreTrainedConfig, sources: tuple[Source, ...]) -> Plan:
    """Plan a model in Bunny's form that is not here: all but Whisper is in its own files, unless
    those are adapters or a projector alone. One that nobody knows may hear."""
    hears = name not in PUBLISHED or AUDIO_FILE in PUBLISHED[name].files
    config = replace(OWLET, language=replace(OWLET.language, lora=None), hears=hears)
    stems = ("model", "pytorch_model")
    whole = any(file.name.startswith(stems) for source in sources for file in source.files)
    bases = bases_of(config)
    if whole:
        bases = tuple(base for base in bases if base.part == "audio")
    return Plan(name, config, (*sources, *bases), language)


def bases_of(config: Config, *, whole: bool = False) -> tuple[Source, ...]:
    """List the bases that a config names. Args: whole: the language model needs none."""
    found = []
    if config.vision.hub is not None:
        found.append(base_source("vision", config.vision.hub, config.vision.revision))
    if config.audio.hub is not None and config.hears:
        found.append(whisper_source(config.audio.hub))
    if config.language.hub is not None and not whole:
        found.append(base_source("language", config.language.hub, config.language.revision))
    return tuple(found)


def in_words(size: int | None) -> str:
    """Word bytes for people, in decimal units as download pages do."""
    if size is None:
        return "size not known"
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def before_loading(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    bits: Bits | None = None,
    spread: Spread | None = None,
    trainable: bool = False,
) -> Spread | None:
    """Say on stderr what will be fetched, and refuse what cannot work, before anything is loaded.

    Returns: the spread, with its `max_memory` filled in where it was open.

    Raises:
        ModelError: a base is not here and the Hub cannot be reached; weights are damaged or half
        here; memory does not suffice; a precision that does not work.
    """
    _check_choices(dtype, bits, spread, trainable)
    if is_unbundled(name) and not trainable:
        find_checkpoint(name)  # says that it has no weights, unless a folder has its name
    try:
        plan = plan_of(name)
    except Unknown:
        return spread  # the loader knows more forms, and says what is wrong with others
    if plan.adapters and spread is not None:
        raise ModelError(f"{name}: adapters cannot be offloaded; avchat merge folds them in")
    for source in plan.sources:
        if source.folder is not None:
            check_whole(source.folder)
        if not source.here and is_path(source.name):
            raise ModelError(f"{name}: its {source.part} base, {source.name}, is not here any more")
        if not source.here and source.unreachable:
            what = "" if source.name == name else f"{source.name} is "
            raise ModelError(
                f"{name}: {what}not on this machine, and {source.note}; {by_hand(source)}"
            )
    spread = _check_memory(plan, device, dtype, bits, spread)
    if plan.absent:
        parts = ", ".join(f"{source.name} ({in_words(source.missing)})" for source in plan.absent)
        say(f"fetching {parts}")
    return spread


def is_path(name: str) -> bool:
    """Say whether a name can only be that of a folder or a file: no repository is called so."""
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or "\\" in name


def _check_choices(
    dtype: torch.dtype, bits: Bits | None, spread: Spread | None, trainable: bool
) -> None:
    if dtype == torch.float16:
        raise ModelError("fp16 is not offered: phi-2 overflows in it; take bf16 or fp32")
    if bits is not None:
        check_bits(bits)
    if bits is not None and spread is not None:
        raise ModelError("offloading does not go with 4 or 8 bit: choose one of them")
    if trainable and spread is not None:
        raise ModelError("a model that is offloaded cannot be trained")


def _check_memory(
    plan: Plan, device: torch.device, dtype: torch.dtype, bits: Bits | None, spread: Spread | None
) -> Spread | None:
    """Compare what loading needs with what is free; give the room that layers may take."""
    try:
        counts = plan.count()
    except Unknown:
        return spread
    shown, rest = precision_of(dtype, bits)
    need = memory(counts, shown, rest)
    if spread is not None:  # a layer at a time is in memory; encoders and embeddings all the time
        need = memory(replace(counts, linear=0, outputs=0), shown, rest)
    places = {device: need.on_top()}
    if device.type != "cpu" and bits is None and spread is None:
        places[torch.device("cpu")] = need.weights  # there it is laid out first
    for where, size in places.items():
        free = free_memory(where)
        ignored = os.environ.get(IGNORE, "") not in ("", "0")
        if free is not None and size > free and not ignored:
            raise ModelError(
                f"{plan.name}: needs {in_words(size)} more memory on {where} in {shown}, "
                f"{in_words(free)} are free; {_remedy(counts, free)}"
            )
    if spread is None or spread.device_map != "auto" or spread.max_memory is not None:
        return spread
    return replace(spread, max_memory=_room(device, need.on_top(full=True)))


def _room(device: torch.device, kept: int) -> dict[int | str, int | str] | None:
    """Give the bytes that layers may take on a device and on the CPU; None where nobody knows."""
    cpu = free_memory(torch.device("cpu"))
    if device.type == "cpu":
        return None if cpu is None else {"cpu": max(0, cpu - kept)}
    free = free_memory(device)
    if free is None or cpu is None:
        return None
    # a tenth of the CPU's stays for the files' pages while they are read
    return {device.index or 0: max(0, free - kept), "cpu": cpu * 9 // 10}


def _remedy(counts: Counts, free: int) -> str:
    """Name the choices that fit, the most exact first; else what else can be done."""
    choices = {"--dtype bf16": "bf16", "--dtype bf16 --bits 8": "8 bit"}
    choices["--dtype bf16 --bits 4"] = "4 bit"
    for flags, precision in choices.items():
        need = memory(counts, precision).on_top()
        if need <= free and counts.linear:
            return f"{flags} needs {in_words(need)}; {IGNORE}=1 tries it all the same"
    return (
        "--offload DIR keeps layers on disk (slow); a smaller model; or free some memory; "
        f"{IGNORE}=1 tries it all the same"
    )


def choices(device: str, dtype: str, bits: Bits | None, offload: Path | None) -> dict[str, Any]:
    """Turn the words of a command line into what `AVChat.from_pretrained` takes.

    Args: device: auto, cpu, cuda, cuda:1, mps; dtype: auto, fp32 or bf16; offload: a folder for
    layers that do not fit into memory.

    Raises:
        ModelError: no such device here, or a folder that cannot be made.
    """
    chosen = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    made: dict[str, Any] = {"dtype": chosen[dtype], "bits": bits, "device": None}
    if device != "auto":
        made["device"] = _device(device)
    if offload is not None:
        try:
            offload.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(
                f"{offload}: no folder can be made there ({error.strerror})"
            ) from error
        made["spread"] = Spread(offload)
    return made


def _device(name: str) -> torch.device:
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    here = [*cards, *(["cuda"] if cards else []), "cpu"]
    here += ["mps"] if torch.backends.mps.is_available() else []
    if name not in here:
        raise ModelError(f"no device called {name} here: there is {', '.join(here)}")
    return torch.device(name)
