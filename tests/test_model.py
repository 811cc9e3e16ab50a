"""The splice, the loss and the folder a model is saved in, each against a slow or a fresh twin."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from small import POOLED_CONFIG, TIMELINE_CONFIG, build_based, build_model, make_media
from torch import Tensor

import avchat.model
from avchat.collate import block_mask, collate
from avchat.config import PRESETS, ModelError
from avchat.model import AVChat, Loss
from avchat.prompt import IGNORE, PICTURE_ID, SOUND_ID, Packed, Turn

TURNS = [
    Turn("which object?", "the red circle"),
    Turn("which sound?", "blue", weight=3.0),
    Turn("red or blue?", "a green star", weight=0.5),
]


@pytest.fixture(scope="module", params=[TIMELINE_CONFIG, POOLED_CONFIG], ids=lambda c: c.name)
def model(request: pytest.FixtureRequest) -> AVChat:
    return build_model(request.param)


def slow_loss(model: AVChat, row: Packed, clip: object) -> tuple[float, float]:
    """Compute a row's weighted loss with no batch, no packing and no shortcut."""
    tokens = model.project([clip])
    logits = model.language(inputs_embeds=model.embed(torch.tensor([row.ids]), tokens)).logits[0]
    total = weight = 0.0
    for place, label in enumerate(row.labels):
        if label != IGNORE:
            loss = F.cross_entropy(logits[place - 1], torch.tensor(label))
            total += row.weights[place] * float(loss.detach())
            weight += row.weights[place]
    return total, weight


def assert_loss(loss: Loss, expected: list[tuple[float, float]]) -> None:
    assert float(loss.total.detach()) == pytest.approx(
        sum(total for total, _ in expected), rel=1e-4
    )
    assert float(loss.weight) == sum(weight for _, weight in expected)


def test_the_splice_is_a_slow_loop(model: AVChat) -> None:
    clips = model.encode([make_media(0), make_media(1, sound=False), make_media(2, frames=3)])
    rows = [model.prompt.build(model.plan(clip), TURNS) for clip in clips]
    batch, tokens = collate(rows, clips), model.project(clips)
    spliced = model.embed(batch.ids, tokens)
    table = model.language.get_input_embeddings().weight
    for row, media in enumerate(tokens):
        visual, audio = iter(media.visual), iter(media.audio)
        for column, token in enumerate(batch.ids[row].tolist()):
            expected = (
                next(visual)
                if token == PICTURE_ID
                else next(audio)
                if token == SOUND_ID
                else table[token]
            )
            assert torch.equal(spliced[row, column], expected)
        assert not [*visual, *audio]


def test_a_wrong_number_of_tokens_is_noticed(model: AVChat) -> None:
    clip = model.encode([make_media()])[0]
    ids = torch.tensor([model.prompt.media_prefix(model.plan(clip)).ids])
    with pytest.raises(AssertionError, match=r"placeholders, \d+ media tokens"):
        model.embed(ids[:, 1:].flip(1)[:, 3:], model.project([clip]))


def test_a_batch_of_conversations_has_the_loss_of_single_rows(model: AVChat) -> None:
    clips = model.encode([make_media(0), make_media(1, frames=2), make_media(2, picture=False)])
    clips.append(clips[0].only("none"))
    rows = [
        model.prompt.build(model.plan(clip), TURNS[: k % 3 + 1]) for k, clip in enumerate(clips)
    ]
    batch = collate(rows, clips)
    assert batch.blocks is None and batch.positions is None
    expected = [slow_loss(model, row, clip) for row, clip in zip(rows, clips, strict=True)]
    assert_loss(model(batch), expected)


def test_packed_questions_have_the_loss_of_separate_rows(model: AVChat) -> None:
    clips = model.encode([make_media(0), make_media(1, sound=False)])
    plans = [model.plan(clip) for clip in clips]
    packed = [
        model.prompt.build_independent(plans[0], TURNS),
        model.prompt.build_independent(plans[1], TURNS[:2]),
        model.prompt.build(plans[0], TURNS),  # a conversation in the same batch
    ]
    loss = model(collate(packed, [*clips, clips[0]]))
    expected = [
        slow_loss(model, model.prompt.build(plan, [turn]), clip)
        for plan, clip, turns in zip(plans, clips, (TURNS, TURNS[:2]), strict=True)
        for turn in turns
    ]
    expected.append(slow_loss(model, packed[2], clips[0]))
    assert_loss(loss, expected)


def test_the_mask_is_the_picture_in_prompt_py() -> None:
    seen = block_mask(torch.tensor([[0, 1, 1, 2, -1]]), torch.float32)[0, 0] == 0
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [1, 0, 0, 0, 1],
    ]


def test_a_row_does_not_feel_its_neighbours_clip(model: AVChat) -> None:
    silent = model.encode([make_media(0)])[0].only("none")
    row = model.prompt.build((), TURNS[:1])
    losses = []
    for seed in (1, 2):
        other = model.encode([make_media(seed)])[0]
        neighbour = model.prompt.build(model.plan(other), [Turn("which object?")])
        losses.append(model(collate([row, neighbour], [silent, other])).total.detach())
    torch.testing.assert_close(losses[0], losses[1])


def test_clips_may_come_encoded_or_not_and_encoders_learn(model: AVChat) -> None:
    inputs = [model.prepare(make_media(0)), model.prepare(make_media(1))]
    rows = [model.prompt.build(model.plan(clip), TURNS) for clip in inputs]
    with torch.no_grad():
        frozen = model(collate(rows, model.encode(inputs)))
    model.zero_grad()
    loss = model(collate(rows, inputs))
    torch.testing.assert_close(loss.total.detach(), frozen.total)
    assert (
        int(loss.correct) <= int(loss.tokens) == 2 * sum(len(t.answer.split()) + 1 for t in TURNS)
    )
    loss.total.backward()
    names = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert not names
    model.zero_grad(set_to_none=True)


def test_a_batch_moves_whole() -> None:
    model = build_model()
    clip = model.prepare(make_media())
    row = model.prompt.build_independent(model.plan(clip), TURNS)
    batch = collate([row], [clip]).to("meta")
    tensors: list[Tensor] = [batch.ids, batch.labels, batch.weights, batch.columns, batch.blocks]
    assert all(tensor.device.type == "meta" for tensor in [*tensors, batch.clips[0].pixels])


def loss_of(model: AVChat) -> Tensor:
    clip = model.encode([make_media()])[0]
    return model(collate([model.prompt.build(model.plan(clip), TURNS)], [clip])).total.detach()


def test_save_and_load_give_the_same_numbers(model: AVChat, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"config.json", "model.safetensors", "tokenizer", "README.md"}
    loaded = AVChat.from_pretrained(tmp_path)
    assert loaded.config == model.config and not loaded.training
    assert torch.equal(loss_of(loaded), loss_of(model))
    card = (tmp_path / "README.md").read_text()
    assert model.config.name in card and "all weights are in this folder" in card


@pytest.fixture
def based(tmp_path: Path) -> AVChat:
    """A model whose language model is a published folder, with trained adapters."""
    return build_based(tmp_path / "phi")


def test_a_published_base_is_not_saved_but_its_adapters_are(based: AVChat, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    based.save_pretrained(folder)
    names = set(load_file(folder / "model.safetensors"))
    assert not [name for name in names if name.startswith("language.")]
    assert {"visual_projector.mlp.mlp.0.weight", "audio_projector.mlp.time.weight"} <= names
    saved = json.loads((folder / "config.json").read_text())
    assert saved["language"]["hub"] == str(tmp_path / "phi")
    loaded = AVChat.from_pretrained(folder)
    torch.testing.assert_close(loss_of(loaded), loss_of(based))
    again = tmp_path / "again"
    AVChat.from_pretrained(folder, trainable=True).save_pretrained(again)
    torch.testing.assert_close(loss_of(AVChat.from_pretrained(again)), loss_of(based))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_takes_the_projectors_and_adapters(
    based: AVChat, tmp_path: Path, bits: int
) -> None:
    """What peers fail at: projectors keep their precision, adapters fit, and all can be trained."""
    based.save_pretrained(tmp_path / "saved")
    loaded = AVChat.from_pretrained(tmp_path / "saved", bits=bits, trainable=True)
    kinds = {type(module).__name__ for module in loaded.visual_projector.modules()}
    assert "Linear" in kinds and not kinds & {"Linear4bit", "Linear8bitLt"}
    assert float(loss_of(loaded)) == pytest.approx(float(loss_of(based)), rel=0.2)
    fresh = AVChat.from_config(based.config, bits=bits)
    clip = fresh.encode([make_media()])[0]
    row = fresh.prompt.build(fresh.plan(clip), TURNS)
    fresh(collate([row], [clip])).total.backward()
    learning = {name for name, weight in fresh.named_parameters() if weight.grad is not None}
    assert any("lora_B" in name for name in learning)
    assert "visual_projector.mlp.mlp.0.weight" in learning


def test_training_goes_on_from_a_preset_or_from_a_checkpoint_without_adapters(
    based: AVChat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "small", based.config)
    AVChat.from_config(based.config, lora=False).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "adapter").exists()
    for name in ("small", tmp_path / "saved"):
        model = AVChat.from_pretrained(name, trainable=True)
        learning = {n for n, weight in model.language.named_parameters() if weight.requires_grad}
        assert learning and all(".lora_" in n for n in learning)
    with pytest.raises(ModelError, match="no weights for the preset small"):
        AVChat.from_pretrained("small")


def test_merged_adapters_make_a_whole_model(based: AVChat, tmp_path: Path) -> None:
    before = loss_of(based)
    based.merge()
    torch.testing.assert_close(loss_of(based), before, atol=1e-3, rtol=1e-4)
    based.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapter").exists()
    shutil.rmtree(tmp_path / "phi")  # the base is not asked for
    loaded = AVChat.from_pretrained(tmp_path / "merged")
    assert torch.equal(loss_of(loaded), loss_of(based))


def test_a_base_that_was_trained_whole_is_saved(based: AVChat, tmp_path: Path) -> None:
    config = replace(based.config, language=replace(based.config.language, lora=None))
    model = AVChat.from_config(config).eval()
    assert not any(weight.requires_grad for weight in model.language.parameters())
    model.language.requires_grad_(True)
    with torch.no_grad():
        model.language.lm_head.weight.add_(0.3)
    for folder in (tmp_path / "one", tmp_path / "two"):
        model.save_pretrained(folder)
        loaded = AVChat.from_pretrained(folder)
        assert torch.equal(loss_of(loaded), loss_of(model))
        model = loaded.requires_grad_(False)  # what a checkpoint changed is saved again


def test_half_precision_answers_about_the_same(tmp_path: Path) -> None:
    model = build_model()
    model.save_pretrained(tmp_path)
    half = AVChat.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.language.dtype == half.vision.siglip.dtype == torch.bfloat16
    assert half.visual_projector.mlp.mlp[0].weight.dtype == torch.float32
    assert float(loss_of(half)) == pytest.approx(float(loss_of(model)), rel=0.1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", "no model called nope: not a preset .tiny, owlet, timeline., not a folder, not "),
        ("no/such", "no/such: not a folder, .* the Hub could not be asked"),  # tests are offline
        ("../a/b", "no model called ../a/b: .*not a folder, not found on the Hub"),
        ("owlet", "no weights for the preset owlet"),
    ],
)
def test_an_unknown_name_is_refused_in_words(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=message) as error:
        AVChat.from_pretrained(name)
    assert "\n" not in str(error.value)


def test_a_damaged_folder_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="config.json: not readable"):
        AVChat.from_pretrained(tmp_path)
    build_model().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = load_file(weights)
    kept = {name: whole[name] for name in sorted(whole)[1:]}
    save_file({**kept, "extra": torch.zeros(1)}, weights)
    with pytest.raises(ModelError, match="1 weights missing, 1 unknown"):
        AVChat.from_pretrained(tmp_path)
    save_file({name: weight.flatten() for name, weight in whole.items()}, weights)
    with pytest.raises(ModelError, match="does not fit config.json"):
        AVChat.from_pretrained(tmp_path)
    weights.write_bytes(b"no weights")
    with pytest.raises(ModelError, match="the weights cannot be read"):
        AVChat.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match="the weights cannot be read"):
        AVChat.from_pretrained(tmp_path)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, avchat; assert not {'torch', 'transformers', 'av'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_the_packages() -> None:
    text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text()
    assert f'\nversion = "{avchat.__version__}"\n' in text
