"""How fast a conversation is: seconds to the first token, tokens a second, memory, lines a second.

`python eval/speed.py chat` asks twice about a clip of 30 s, through our path and through
`generate` of transformers over the same embeddings (greedy, as many tokens; an end token is never
taken), and prints what the device would allow: a prefill by its FLOPs, a step by the bytes of
weights, keys and values that it must read. `--batch-lines N` adds `avchat chat --batch` against
`model.open(...)` and `ask(...)` line by line, on clips of the world. Rounds are interleaved.
"""

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from step_speed import SIZES, WORDS, peak_flops, settle
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.generation.streamers import BaseStreamer

from avchat.batch_lines import read_lines
from avchat.batch_run import Asking, answer_lines, leave_a_core
from avchat.chat import Conversation
from avchat.config import PRESETS, AudioConfig, ModelError
from avchat.media import load_media
from avchat.model import AVChat
from avchat.tokenizer import train_tokenizer
from avchat.world.dataset import write_dataset

# Bytes a second of memory, as the makers publish it; of other devices a large copy is timed.
BANDWIDTH = {"H200": 4.8e12, "H100": 3.35e12, "A100": 2.039e12, "L40S": 864e9, "4090": 1008e9}
SO400M = {
    "hidden_size": 1152,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "intermediate_size": 4304,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
WHISPER_SMALL = {"n_mels": 80, "n_ctx": 1500, "n_state": 768, "n_head": 12, "n_layer": 12}
FIRST, NEXT = "which object makes the sound?", "what moves to the left?"
SEVERAL = 5  # questions on a clip, at most
ROUNDS = 3  # of lines in a batch and one by one


@dataclass(frozen=True)
class ChatSpeed:
    """A conversation of two turns on a clip of 30 s."""

    preset: Literal["tiny", "owlet", "timeline"] = "tiny"
    random_weights: bool = False
    """The preset's real sizes in bf16 with random weights: nothing is downloaded."""
    frames: int | None = None
    """Frames to look at; the preset's own number when left out."""
    tokens: int = 64
    """Tokens of an answer."""
    repeats: int = 5
    """Rounds; the median counts."""
    warm_up: int = 1
    """Rounds before, which do not count: on a GPU, the first one captures the graph."""
    batch_lines: int = 0
    """Lines of a batch, against one by one; 0 leaves it out."""
    json: bool = False


def build(run: ChatSpeed, device: torch.device) -> AVChat:
    """Load the preset, or build its architecture with random weights."""
    if not run.random_weights:
        return AVChat.from_pretrained(run.preset)
    config = PRESETS[run.preset]
    words = train_tokenizer([WORDS], 400)
    if config.language.inline is not None:
        return AVChat.from_config(config, words).to(device).eval()
    size = AutoConfig.for_model("phi", **SIZES["phi-2"], max_position_embeddings=2048)
    config = replace(
        config,
        vision=replace(config.vision, hub=None, inline=SO400M),
        audio=AudioConfig(inline=WHISPER_SMALL),
        language=replace(config.language, lora=None),
    )
    with device:
        language = AutoModelForCausalLM.from_config(size, dtype=torch.bfloat16)
    model = AVChat.from_config(config, words, dtype=torch.bfloat16, language=language, lora=False)
    return model.to(device).eval()


def never_end(model: AVChat) -> None:
    """Take the end token out of what may be said, for every path alike."""

    def bar(module: torch.nn.Module, given: tuple, out: Any) -> None:
        out.logits[..., model.tokenizer.eos_token_id] = -torch.inf

    model.language.register_forward_hook(bar)


def our_turns(run: ChatSpeed, model: AVChat, clip: Path) -> dict[str, Any]:
    """Ask twice; the seconds of each part, and the ids of the first answer."""
    talk, turns = Conversation.open(model, clip, frames=run.frames), []
    for question in (FIRST, NEXT):
        for _ in talk.ask(question, max_new_tokens=run.tokens):
            pass
        receipt = talk.receipt
        assert receipt is not None and receipt.tokens.answer == run.tokens
        turns.append(receipt.timing)
    first, later = turns
    spoken = first.total_s - first.media_s - first.encode_s - first.first_token_s
    return {
        "media_s": first.media_s,
        "encode_s": first.encode_s,
        "prefill_s": first.first_token_s,
        "first_token_s": first.media_s + first.encode_s + first.first_token_s,
        "follow_up_first_token_s": later.first_token_s,
        "tokens_per_s": (run.tokens - 1) / spoken,
        "ids": [*talk._turns[0].answer[:-1]],
    }


@torch.inference_mode()
def embedded(run: ChatSpeed, model: AVChat, clip: Path) -> Tensor:
    """Embed the first prompt [1, L, D], as our path does."""
    media = load_media(clip, frames=run.frames or model.config.frames)
    said = Conversation(model, media).question(FIRST, max_new_tokens=run.tokens)
    ids = torch.tensor([said.prompt], device=model.device)
    return model.embed(ids, model.project(said.thread.parts))


class Stopwatch(BaseStreamer):
    """Note when `generate` says each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        """Take what was said: before the first token, the prompt."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Take the end."""


def plain_generate(run: ChatSpeed, model: AVChat, embeds: Tensor) -> dict[str, Any]:
    """Let transformers answer over the same embeddings."""
    watch = Stopwatch()
    settle(model.device)
    began = time.perf_counter()
    out = model.language.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
        max_new_tokens=run.tokens,
        do_sample=False,
        pad_token_id=model.tokenizer.pad_token_id,
        streamer=watch,
    )
    times = watch.times[-run.tokens :]
    return {
        "first_token_s": times[0] - began,
        "tokens_per_s": (run.tokens - 1) / (times[-1] - times[0]),
        "ids": tuple(out[0].tolist()),
    }


def limits(model: AVChat, embeds: Tensor, tokens: int) -> dict[str, Any]:
    """Say what the device allows: seconds of the prefill, tokens a second."""
    table = model.language.get_input_embeddings().weight
    head = model.language.get_output_embeddings().weight
    weights = [p for p in model.language.parameters() if p is not table or table is head]
    text = model.language.config.get_text_config(decoder=True)
    length, layers, width = embeds.shape[1], text.num_hidden_layers, text.hidden_size
    inner = sum(p.numel() for p in weights if p is not head)  # the head runs on one column
    flops = 2 * inner * length + 2 * layers * width * length**2  # causality needs half of it
    kept = 2 * layers * text.num_key_value_heads * (width // text.num_attention_heads)
    kv_bytes = kept * (length + tokens / 2) * embeds.element_size()
    read = sum(p.numel() * p.element_size() for p in weights) + kv_bytes
    peak, peak_how = peak_flops(model.device, model.language.dtype)
    bandwidth, bandwidth_how = memory_bandwidth(model.device)
    return {
        "prompt_tokens": length,
        "prefill_s": flops / peak,
        "peak_tflops": peak / 1e12,
        "peak": peak_how,
        "bytes_of_a_step": read,
        "bandwidth_gb_per_s": bandwidth / 1e9,
        "bandwidth": bandwidth_how,
        "tokens_per_s": bandwidth / read,
    }


def memory_bandwidth(device: torch.device) -> tuple[float, str]:
    """Look the device's memory bandwidth up, in bytes a second, or time a copy and a sum."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, bandwidth in BANDWIDTH.items():
            if known in name:
                return bandwidth, "published"
    source = torch.ones(64 * 1024**2, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(10):
        for moved, move in ((2, lambda: target.copy_(source)), (1, source.sum)):
            began = time.perf_counter()
            move()
            settle(device)
            best = max(best, moved * 4 * source.numel() / (time.perf_counter() - began))
    return best, "of a copy or a sum, measured"


def measure_batch(model: AVChat, lines: int) -> dict[str, Any]:
    """Time lines in a batch and one by one: several questions a clip, and one a clip."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(
            Path(folder), max(44, lines + lines // 20), 8, "train"
        )  # few have no question
        by_clip: dict[str, list[dict]] = {}
        for text in (Path(folder) / "questions.jsonl").open():
            row = json.loads(text)
            by_clip.setdefault(row["video"], []).append(row)
        asked = list(by_clip.values())
        several = [row for own in asked for row in own[:SEVERAL]][: max(lines, 40 * SEVERAL)]
        single = [own[k % len(own)] for k, own in enumerate(asked)][:lines]
        for name, some in (("several questions a clip", several), ("one question a clip", single)):
            found[name] = batch_against_single(model, Path(folder), some)
    return found


def batch_against_single(model: AVChat, folder: Path, rows: list[dict]) -> dict[str, Any]:
    """Answer rows both ways, in turns; the ratio is that of the medians."""
    path, seconds = folder / "in.jsonl", {"batch": [], "single": []}
    fields = ("video", "question")
    path.write_text("".join(json.dumps({f: row[f] for f in fields}) + "\n" for row in rows))
    threads = torch.get_num_threads()
    for _ in range(ROUNDS):
        leave_a_core(model)
        began = time.perf_counter()
        chunks = answer_lines(model, read_lines(path), Asking())
        together = [row["answer"] for chunk in chunks for row in chunk.rows]
        seconds["batch"].append(time.perf_counter() - began)
        torch.set_num_threads(threads)
        began, alone = time.perf_counter(), []
        for row in rows:
            talk = model.open(folder / row["video"])
            for _ in talk.ask(row["question"], max_new_tokens=256):
                pass
            assert talk.receipt is not None
            alone.append(talk.receipt.answer)
        seconds["single"].append(time.perf_counter() - began)
        assert together == alone, "the batch says something else"
    batch, single = (statistics.median(seconds[name]) for name in ("batch", "single"))
    return {
        "lines": len(rows),
        "clips": len({row["video"] for row in rows}),
        "batch_lines_per_s": len(rows) / batch,
        "single_lines_per_s": len(rows) / single,
        "ratio": single / batch,
    }


def targets(report: dict[str, Any], cuda: bool) -> list[tuple[str, float, str, bool]]:
    """List (what, its value, its target, whether it holds): those that are for this device."""
    ours, plain, most = report["ours"], report["generate"], report["limits"]
    follow = ours["follow_up_first_token_s"] / ours["first_token_s"]
    rows = []
    if cuda:
        share = ours["tokens_per_s"] / most["tokens_per_s"]
        faster = ours["tokens_per_s"] / plain["tokens_per_s"]
        rows += [
            ("tokens/s, of the bandwidth's limit", share, ">= 0.5", share >= 0.5),
            ("tokens/s, times plain generate", faster, ">= 5", faster >= 5),
            ("first token, s", ours["first_token_s"], "< 0.6", ours["first_token_s"] < 0.6),
        ]
    share = 0.1 if cuda else 0.25
    rows.append(("follow-up's first token, of the first's", follow, f"<= {share}", follow <= share))
    for name, batch in report.get("batch", {}).items():
        rows.append((f"batch, {name}, times single", batch["ratio"], ">= 3", batch["ratio"] >= 3))
    return rows


def main(run: ChatSpeed, make_clip: Callable[[Path], Path]) -> None:
    """Measure and print all of it, with the targets beside it."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = build(run, device)
    except ModelError as error:
        sys.exit(f"error: {error} (--random-weights needs no weights)")
    batch = measure_batch(model, run.batch_lines) if run.batch_lines else {}
    never_end(model)
    ours, plain = [], []
    with tempfile.TemporaryDirectory() as folder:
        clip = make_clip(Path(folder))
        embeds = embedded(run, model, clip)
        for _ in range(run.warm_up + run.repeats):
            ours.append(our_turns(run, model, clip))
            plain.append(plain_generate(run, model, embeds))
    alike = sum(a == b for a, b in zip(ours[-1].pop("ids"), plain[-1].pop("ids"), strict=True))
    memory = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    report = {
        "preset": run.preset + (", random weights" if run.random_weights else ""),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "ours": medians(ours[run.warm_up :]),
        "generate": medians(plain[run.warm_up :]),
        "tokens_alike": f"{alike} of {run.tokens}",
        "limits": limits(model, embeds, run.tokens),
        "peak_memory_gb": memory / 1e9,
        **({"batch": batch} if batch else {}),
    }
    ours_s, plain_s = report["ours"]["tokens_per_s"], report["generate"]["tokens_per_s"]
    report["of_bandwidth"] = ours_s / report["limits"]["tokens_per_s"]
    report["of_peak"] = report["limits"]["prefill_s"] / report["ours"]["prefill_s"]
    report["times_generate"] = ours_s / plain_s
    kept = ("what", "value", "target", "holds")
    rows = targets(report, device.type == "cuda")
    report["targets"] = [dict(zip(kept, row, strict=True)) for row in rows]
    print(json.dumps(report) if run.json else table(report))


def medians(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Take the median of each number over rounds."""
    return {
        name: statistics.median(one[name] for one in rounds) for name in rounds[0] if name != "ids"
    }


def table(report: dict[str, Any]) -> str:
    """Lay a report out, a line a number; targets last."""
    lines = []
    for name, value in report.items():
        if isinstance(value, dict):
            lines.append(name)
            lines += [f"  {key:<28}{_short(number)}" for key, number in value.items()]
        elif name != "targets":
            lines.append(f"{name:<30}{_short(value)}")
    for row in report["targets"]:
        said = "holds" if row["holds"] else "MISSED"
        lines.append(f"{row['what']:<48}{row['value']:.3f}  target {row['target']}  {said}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
