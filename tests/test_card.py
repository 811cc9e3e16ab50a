"""Model cards: what they say is what run.json says, and the Hub's own client reads them."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from small import TIMELINE_CONFIG, build_based, build_model
from staged import run_of, trained

from avchat.card import history, merged_card, plain_card, run_card
from avchat.config import PRESETS, AudioConfig, LanguageConfig, LoraConfig, VisionConfig
from avchat.model import AVChat

RECORD = {
    "stage": "finetune",
    "settings": {
        "output": "runs/mine", "init": "/home/me/runs/first/model", "batch": 16, "accumulate": 2,
        "steps": 100, "pack": 512, "precision": "auto", "seed": 7, "language": "qlora",
    },
    "processes": 2,
    "device": "NVIDIA H100",
    "data": {"train.jsonl": "ab" * 32, "more.jsonl": "cd" * 32},
    "manifests": {
        "training": {"files": ["train.jsonl", "more.jsonl"], "samples": 40, "clips": 30}
        | {"text_only": 6},
        "validation": {"files": [], "samples": 0, "clips": 0, "text_only": 0},
    },
    "trained": {
        "vision": {"weights": 1000, "trained": 0, "lr": 0.0},
        "visual_projector": {"weights": 20, "trained": 20, "lr": 2e-5},
        "language": {"weights": 5000, "trained": 50, "lr": 2e-4},
    },
    "skipped": {"s1": "no such file"},
    "step": 60, "loss": 1.25, "best": {"step": 50, "loss": 1.5},
    "samples": 100, "tokens": 2000, "tokens_per_s": 12.5, "device_hours": 0.25,
    "peak_memory_gb": 3.5, "versions": {"python": "3.12", "avchat": "0.1.0"},
}  # fmt: skip
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TIMELINE = replace(
    PRESETS["timeline"],
    vision=replace(PRESETS["timeline"].vision, revision=COMMIT),
)


def test_the_hubs_client_reads_the_metadata() -> None:
    """ModelCard.validate asks the Hub; what can be looked at without it is looked at here."""
    card = ModelCard(run_card(TIMELINE, RECORD, place=Path("model")), ignore_metadata_errors=False)
    bases = ["google/siglip-so400m-patch14-384", "openai/whisper-small", "microsoft/phi-2"]
    assert card.data.to_dict() == {
        "library_name": "avchat",
        "pipeline_tag": "video-text-to-text",
        "base_model": bases,
        "tags": ["audio", "video", "lora"],
    }
    assert "## Licence\n\nNot set." in card.text and card.text.lstrip().startswith("# mine\n")
    plain = ModelCard(plain_card(TIMELINE), ignore_metadata_errors=False)
    assert plain.data.base_model == bases and plain.data.license is None
    own = ModelCard(plain_card(TIMELINE_CONFIG), ignore_metadata_errors=False)
    assert own.data.base_model is None and "all weights are in this folder" in own.text


def test_bases_that_the_hub_does_not_have_are_not_named_to_it(tmp_path: Path) -> None:
    config = replace(
        TIMELINE_CONFIG,
        vision=VisionConfig(hub=str(tmp_path)),
        audio=AudioConfig(hub="/home/me/whisper/own.pt"),
        language=LanguageConfig(hub="/home/me/models/phi", lora=LoraConfig()),
    )
    text = plain_card(config)
    assert ModelCard(text).data.base_model is None
    assert "models/phi" in text and "/home" not in text and str(tmp_path) not in text
    turbo = replace(TIMELINE_CONFIG, audio=AudioConfig(hub="turbo"))
    assert ModelCard(plain_card(turbo)).data.base_model == ["openai/whisper-large-v3-turbo"]


def test_a_card_says_what_the_record_says() -> None:
    text = run_card(TIMELINE, RECORD, place=Path("model"))
    for said in (
        f"**From** `first/model`; bases: google/siglip-so400m-patch14-384 at {COMMIT}, small, ",
        f"`train.jsonl` (sha256 {'ab' * 32}), `more.jsonl` (sha256 {'cd' * 32}): 40 samples, on 30 "
        "clips; 6 of text alone.",
        "**Left out** 1 samples",
        "stage finetune, step 60 of 100; 16 rows a step (4 x 2 micro-batches x 2 processes), "
        "packed to 512 tokens; bf16; seed 7.",
        "**LoRA** rank 128, alpha 256, dropout 0.05 on q_proj, k_proj, v_proj, dense, fc1, fc2, "
        "on weights in 4 bit.",
        "loss 1.2500 at step 60; best validation loss 1.5000, at step 50.",
        "100 samples, 2000 tokens: 2.50 epochs. 12.5 tokens a second; 0.25 device-hours on 2 x "
        "NVIDIA H100; 3.5 GB at most",
        "python 3.12, avchat 0.1.0",
        "| vision | 1,000 | 0 | frozen |  |",
        "| visual_projector | 20 | 20 | all | 2e-05 |",
        "| language | 5,000 | 50 | adapters | 0.0002 |",
        "Not evaluated",
    ):
        assert said in text, said
    assert "Validated on" not in text and "says of itself" not in text and "/home/me" not in text
    noticed = run_card(replace(TIMELINE, notice="only toys"), RECORD, place=Path("model"))
    assert "> only toys" in noticed and "says of itself: only toys." in noticed
    begun = {**RECORD, "loss": None, "best": None}
    assert "**Result**" not in run_card(TIMELINE, begun, place=Path("model"))


def test_the_step_is_that_of_the_weights() -> None:
    for place, step in (
        ("out/new-model", 60),
        ("out/new-best", 50),
        ("out/checkpoints/new-step-00000058/model", 58),
    ):
        assert f", step {step} of 100;" in run_card(TIMELINE, RECORD, place=Path(place))


def test_a_card_tells_what_was_before() -> None:
    first = run_card(TIMELINE, {**RECORD, "stage": "pretrain"}, place=Path("model"))
    merged = merged_card(first, "Folded in.")
    assert merged.startswith(first.rstrip()) and merged.endswith("Folded in.\n")
    second = run_card(TIMELINE, RECORD, place=Path("model"), before=merged)
    third = run_card(TIMELINE, RECORD, place=Path("model"), before=second)
    assert second.count("stage pretrain") == third.count("stage pretrain") == 1
    assert second.count("stage finetune") == 1 and third.count("stage finetune") == 2
    assert second.count("### Merged adapters\n\nFolded in.") == 1
    assert third.index("stage finetune") < third.index("stage pretrain")  # the newest first
    assert history("# a card of somebody else\n\n## Use\n\nwith care") == ""


@pytest.mark.parametrize("validated", [False, True])
def test_what_a_run_writes_has_a_card_of_its_run(
    manifest: Path, tmp_path: Path, validated: bool
) -> None:
    more = {"validation": (manifest,)} if validated else {}
    if validated:  # ids must differ from those of training
        rows = [json.loads(line) for line in manifest.read_text().splitlines()]
        other = manifest.with_name("held-out.jsonl")
        text = "".join(json.dumps({**row, "id": f"v{row['id']}"}) + "\n" for row in rows[:4])
        other.write_text(text)
        more = {"validation": (other,)}
    run = run_of(tmp_path / "run", manifest, save_every=2, log_every=3, validate_every=2, **more)
    trained(run)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    cards = {path.parent: path.read_text() for path in (tmp_path / "run").glob("**/README.md")}
    cards = {k: v for k, v in cards.items() if k.name != "adapter"}
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000002" / "model"
    assert set(cards) >= {tmp_path / "run" / "model", checkpoint}
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    for card in cards.values():
        ModelCard(card, ignore_metadata_errors=False)
        assert f"(sha256 {digest}): 10 samples" in card and "2 of text alone" in card
        assert str(tmp_path) not in card and "avchat 0.1.0" in card
    last = cards[tmp_path / "run" / "model"]
    assert f"loss {record['loss']:.4f} at step 3" in last and ", step 3 of 3;" in last
    assert ", step 2 of 3;" in cards[checkpoint] and "**Until step 2**" in cards[checkpoint]
    if validated:
        rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").open()]
        losses = {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}
        assert set(losses) == {2, 3}
        step = min(losses, key=losses.get)
        best = cards[tmp_path / "run" / "best"]
        said = f"best validation loss {losses[step]:.4f}, at step {step}."
        assert said in best and said in last and f", step {step} of 3;" in best
    else:
        assert "validation" not in last


def test_a_model_knows_the_card_of_its_folder(tmp_path: Path) -> None:
    build_model().save_pretrained(tmp_path / "a", card="# mine\n")
    assert AVChat.from_pretrained(tmp_path / "a").card == "# mine\n"
    assert build_based(tmp_path / "phi").card == ""
