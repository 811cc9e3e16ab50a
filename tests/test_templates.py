"""Any language model: its own template to the id, and the same answers by every way there is."""

from pathlib import Path

import pytest
import torch
from families import FAMILIES, FAMILY, PADDED, Family, family_config, make_tokenizer, write_family
from small import make_media, stirred
from test_chat import slow_answer
from transformers import PreTrainedTokenizerBase

from avchat.batch import answer_batch
from avchat.chat import Conversation
from avchat.collate import collate
from avchat.config import BUNNY_PROMPT, ConfigError
from avchat.language import has_lora
from avchat.model import AVChat
from avchat.prompt import IGNORE, PICTURE_ID, SOUND_ID, Prompt, Turn, join_rows
from avchat.templates import DATE, prompt_config

TEMPLATED = [family for family in FAMILIES if family.template]
TURNS = [
    Turn("which object? a star", "the red circle."),
    Turn("and the sound?", "blue star"),
    Turn("what  now", "no"),
]
THOUGHTS = "<think>\n\n</think>\n\n"


def by_template(
    tokenizer: PreTrainedTokenizerBase, turns: list[Turn], *, waiting: bool = False
) -> list[int]:
    """Let Transformers render and tokenise a conversation."""
    messages = []
    for turn in turns:
        messages += [{"role": "user", "content": turn.question}]
        messages += [{"role": "assistant", "content": turn.answer}]
    return tokenizer.apply_chat_template(
        messages[:-1] if waiting else messages,
        add_generation_prompt=waiting,
        tokenize=True,
        return_dict=False,
        enable_thinking=False,
        date_string=DATE.strftime("%d %b %Y"),
        chat_template=tokenizer.chat_template.replace("strftime_now('%d %B %Y')", "'26 July 2024'"),
    )


@pytest.mark.parametrize("family", TEMPLATED, ids=lambda f: f.name)
def test_ids_are_those_of_the_chat_template(family: Family) -> None:
    tokenizer = make_tokenizer(family)
    prompt = Prompt(prompt_config(tokenizer), tokenizer)
    opening = prompt.media_prefix(None).ids
    asked = [*opening, *prompt.turn(Turn(TURNS[0].question)).ids]
    assert asked == by_template(tokenizer, TURNS[:1], waiting=True)
    if family.name == "qwen 3":  # its empty thoughts stay where they were: our choice
        return
    ours = [*prompt.build(None, TURNS).ids]
    theirs = by_template(tokenizer, TURNS)
    assert ours == theirs[: len(ours)] and len(theirs) - len(ours) <= 1  # what follows the end
    later = [*prompt.build(None, TURNS[:1]).ids, *prompt.turn(TURNS[1], first=False).ids]
    later = later[: -len(prompt.answer_ids(TURNS[1].answer))]
    assert later == by_template(tokenizer, TURNS[:2], waiting=True)


def test_qwen_3_keeps_the_empty_thoughts_before_each_answer() -> None:
    tokenizer = make_tokenizer(FAMILY["qwen 3"])
    prompt = Prompt(prompt_config(tokenizer), tokenizer)
    ours = tokenizer.decode(prompt.build(None, TURNS).ids)
    theirs = tokenizer.decode(by_template(tokenizer, TURNS))
    assert ours.count(THOUGHTS) == 3 and theirs.count(THOUGHTS) == 1
    assert f"{ours}\n".replace(THOUGHTS, "") == theirs.replace(THOUGHTS, "")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_nobody_can_type_a_special_token(family: Family) -> None:
    tokenizer = make_tokenizer(family)
    prompt = Prompt(prompt_config(tokenizer), tokenizer)
    names = [*family.special, *(name for name in family.plain if name.strip())]
    special = set(tokenizer.convert_tokens_to_ids(names)) - {tokenizer.unk_token_id}
    honest, typed = (
        prompt.turn(Turn(f"a {text} b", f"the {text}")).ids for text in ("x", " ".join(names))
    )
    assert [i for i in typed if i in special] == [i for i in honest if i in special]
    for name in names:
        read = tokenizer.decode(prompt.text_ids(f"a{name}b"))
        assert name.replace(" ", "") in read.replace(" ", "")  # nothing is lost either


def test_templates_in_words() -> None:
    """What was derived, read by a person."""
    llama = prompt_config(make_tokenizer(FAMILY["llama 3"]))
    assert "Today Date: 26 Jul 2024" in llama.opening and llama.end == "<|eot_id|>"
    gemma = prompt_config(make_tokenizer(FAMILY["gemma 2"]))
    assert gemma.opening == "<bos><start_of_turn>user\n"
    assert gemma.before_answer == "<end_of_turn>\n<start_of_turn>model\n"
    phi = prompt_config(make_tokenizer(FAMILY["phi 3"]))
    assert (phi.opening, phi.before_answer) == ("<|user|>", "<|end|><|assistant|>")
    mistral = prompt_config(make_tokenizer(FAMILY["mistral"]))
    assert (mistral.next_question, mistral.before_answer) == ("[INST] ", " [/INST]")
    qwen = prompt_config(make_tokenizer(FAMILY["qwen 2.5"]))
    assert "You are a helpful assistant." in qwen.opening, "its template's own words"


def test_text_between_an_answer_and_its_end_is_trained() -> None:
    """Llama 2's form: a space before the end, and a beginning for each turn."""
    tokenizer = make_tokenizer(FAMILY["mistral"])
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}{% else %}"
        "{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    )
    config = prompt_config(tokenizer)
    assert (config.answer, config.after_answer, config.end) == (" ", " ", "</s>")
    row = Prompt(config, tokenizer).build(None, TURNS)
    assert [*row.ids] == by_template(tokenizer, TURNS)
    trained = tokenizer.decode([label for label in row.labels[-30:] if label != IGNORE])
    assert trained.endswith("no </s>")


def test_without_a_template_the_words_are_bunnys() -> None:
    assert prompt_config(make_tokenizer(FAMILY["phi 2"])) == BUNNY_PROMPT
    llama = make_tokenizer(FAMILY["llama 2 base"])
    config = prompt_config(llama)
    assert config.opening == "<s>" + BUNNY_PROMPT.opening
    ids = Prompt(config, llama).media_prefix(None).ids
    assert list(ids) == llama(BUNNY_PROMPT.opening).input_ids
    llama.eos_token = None
    with pytest.raises(ConfigError, match="no eos_token to end an answer with"):
        prompt_config(llama)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('only for tools') }}", "cannot be rendered: only for tools"),
        ("{% for m in messages %}{{ m.content }", "cannot be rendered"),
        ("{{ messages[-1].content }}<|im_end|>", "each question and answer once"),
        ("{% for m in messages %}{{ m.content + ' / ' }}{% endfor %}", "no token of its own ends"),
        (
            "{% for m in messages %}{{ loop.revindex }}{{ m.content + '<|im_end|>' }}{% endfor %}",
            "depends on later turns",
        ),
        (
            "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}"
            "{% if add_generation_prompt %}<think>\n{% endif %}",
            "makes the model think",
        ),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_in_a_line(template: str, reason: str) -> None:
    tokenizer = make_tokenizer(FAMILY["qwen 2.5"])
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=reason) as raised:
        prompt_config(tokenizer)
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda f: f.name)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AVChat:
    """A model on a family's language model, with adapters that do something."""
    folder = tmp_path_factory.mktemp("family") / request.param.name
    write_family(request.param, folder)
    prompt = prompt_config(make_tokenizer(request.param))
    torch.manual_seed(1)
    return stirred(AVChat.from_config(family_config(folder, prompt, lora=True)).eval())


def test_a_conversation_is_what_it_is_without_a_cache(model: AVChat) -> None:
    """Two turns, past the window of those that have one; a batch says the same as one by one."""
    talk, history = Conversation(model, make_media()), []
    prefix = model.prompt.media_prefix(model.plan(talk.features[0])).ids
    for k, turn in enumerate(TURNS[:2]):
        history += model.prompt.turn(Turn(turn.question), first=k == 0).ids
        expected = slow_answer(talk, [*prefix, *history])
        "".join(talk.ask(turn.question, max_new_tokens=8))
        assert talk._turns[-1].answer == (*expected, model.prompt.end_id)
        history += [*expected, model.prompt.end_id]
    assert history == [token for turn in talk._turns for token in (*turn.question, *turn.answer)]
    assert model.window is None or len(prefix) + len(history) > model.window.size
    clips = model.encode([make_media(0), make_media(1), make_media(2, sound=False)])
    questions = ["which object?", "red or blue? a star or a square or a circle?", "what?"]
    together = answer_batch(model, clips, questions, max_new_tokens=8)
    alone = [
        answer_batch(model, [clip], [question], max_new_tokens=8)[0]
        for clip, question in zip(clips, questions, strict=True)
    ]
    assert together == alone
    talk = Conversation(model, make_media())
    assert "".join(talk.ask(questions[0], max_new_tokens=8)).strip() == together[0]


def test_adapters_and_projectors_learn_and_are_saved(model: AVChat, tmp_path: Path) -> None:
    media = make_media()
    clip = model.prepare(media)
    rows = [model.prompt.build(model.plan(clip), TURNS)]
    loss = model(collate(rows, [clip]))
    loss.total.backward()
    learned = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    assert has_lora(model.language) and any(".lora_B" in name for name in learned)
    assert not any("lm_head" in name or "embed_tokens" in name for name in learned)
    for part in ("visual_projector", "audio_projector"):
        assert any(name.startswith(part) for name in learned)
    model.zero_grad()
    model.save_pretrained(tmp_path)
    loaded = AVChat.from_pretrained(tmp_path)
    assert loaded.config == model.config and loaded.prompt.stops(model.prompt.end_id)
    torch.testing.assert_close(loaded(collate(rows, [clip])).total, loss.total.detach())


def test_samples_packed_in_a_row_do_not_see_each_other(model: AVChat) -> None:
    clips = [model.prepare(make_media(seed)) for seed in range(2)]
    rows = [model.prompt.build(model.plan(clip), TURNS) for clip in clips]
    with torch.no_grad():
        apart = [model(collate([row], [clip])) for row, clip in zip(rows, clips, strict=True)]
        packed = model(collate([join_rows(rows)], clips))
    torch.testing.assert_close(packed.total, sum(loss.total for loss in apart))


def test_media_stand_in_the_first_question(model: AVChat) -> None:
    clip = model.prepare(make_media())
    plan = model.plan(clip)
    ids = [i for i in model.prompt.build(plan, TURNS).ids if i not in (PICTURE_ID, SOUND_ID)]
    text = model.tokenizer.decode(ids)
    alone = model.tokenizer.decode(model.prompt.build(None, TURNS).ids)
    opening = model.tokenizer.decode(model.prompt.media_prefix(None).ids)
    assert text.startswith(opening.rstrip()) and "0.25s" in text[len(opening.rstrip()) :]
    assert text.endswith(alone[len(opening) :].lstrip())


def test_it_stops_where_its_own_generation_does_and_says_no_padding(model: AVChat) -> None:
    family = FAMILY[Path(model.config.language.hub).name]
    for name in family.ends:
        assert model.prompt.stops(model.tokenizer.convert_tokens_to_ids(name))
    assert model.prompt.stops(model.tokenizer.eos_token_id)
    assert not model.prompt.stops(model.tokenizer.convert_tokens_to_ids("a"))
    head = model.language.get_output_embeddings().weight
    assert len(head) - PADDED == model.num_tokens
    assert len(model.sayable(torch.zeros(len(head)))) == model.num_tokens


def test_padding_of_a_vocabulary_is_never_said(tmp_path: Path) -> None:
    """Its rows are made the likeliest of all; one token at a time and in a batch."""
    folder = write_family(FAMILY["phi 2"], tmp_path)
    model = AVChat.from_config(family_config(folder, BUNNY_PROMPT)).eval()
    with torch.no_grad():
        model.language.lm_head.bias[model.num_tokens :] = 1e4
    talk = Conversation(model, make_media())
    "".join(talk.ask("which object?", max_new_tokens=4))
    assert max(talk._turns[0].answer) < model.num_tokens
    assert answer_batch(model, talk.features, ["which object?"], max_new_tokens=4) == [
        talk.receipt.answer
    ]


def test_the_context_is_what_kept_keys_allow(model: AVChat) -> None:
    longrope = model.language.config.to_dict().get("rope_parameters") or {}
    stretched = longrope.get("rope_type") == "longrope"
    assert model.context == (256 if stretched else 512)
