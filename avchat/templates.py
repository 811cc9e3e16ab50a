"""A tokenizer's own chat template -> the words around media and turns, derived once.

Enters: a tokenizer. Leaves: a `PromptConfig`, which is saved with the model: later versions of the
template change nothing. Small conversations are rendered with known words as their contents, and
the text is cut at these words. Turns must only append, since training lays out a conversation as
chat does, which keeps the keys and values of what was said.

Two choices are ours. Dates in a template are a fixed one, so that the same command gives the same
ids every day. What a template puts before an answer that is to be given, and drops from answers of
the past (Qwen 3's empty <think> block, with thinking switched off), stays where it was: a model
sees its earlier answers as it gave them.
"""

import re
from dataclasses import replace
from datetime import date

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from avchat.config import BUNNY_PROMPT, ConfigError, PromptConfig

DATE = date(2024, 7, 26)  # Llama 3's templates take it where none is given
DATE_SIGNS = ("%d", "%m", "%b", "%B", "%y", "%Y", "%a", "%A", "%H", "%M", "%S")
# Stands before a template, instead of the function that writes today's date.
FIXED_DATE = (
    "{% macro strftime_now(form) %}{{ form"
    + "".join(f" | replace('{sign}', '{DATE.strftime(sign)}')" for sign in DATE_SIGNS)
    + " }}{% endmacro %}{{ '' }}"  # a block takes the line break behind it along, '' does not
)
# Plain words, which no template changes, and which none holds.
ASKED = ("questionone", "questiontwo", "questionthree")
SAID = ("answerone", "answertwo", "answerthree")
THINKS, THOUGHT = "<think>", "</think>"


def prompt_config(tokenizer: PreTrainedTokenizerBase) -> PromptConfig:
    """Derive the words around media and turns from a tokenizer's chat template.

    Without a template they are Bunny's, behind the token that the tokenizer begins texts with.

    Raises:
        ConfigError: the template cannot be rendered, or is not one that turns are appended to.
    """
    if not tokenizer.chat_template:
        return _without_template(tokenizer)
    opening, before_answer = _cut(tokenizer, 1, open_end=True)
    pieces = _cut(tokenizer, 3)
    head, lead, between, later, *_ = pieces
    # What is put before an answer to be given only: none, or a block of thoughts that is empty.
    answer, extra = _answer_lead(before_answer, lead)
    if THINKS in before_answer and THOUGHT not in before_answer:
        raise _refusal(tokenizer, "it makes the model think before each answer")
    end = _end_token(tokenizer, between)
    after_answer, next_question = between.split(end, 1)
    config = PromptConfig(
        opening=opening.rstrip(" "),
        after_media="\n",
        first_question=opening[len(opening.rstrip(" ")) :],
        next_question=next_question,
        before_answer=before_answer,
        answer=answer,
        after_answer=after_answer,
        end=end,
        special=True,
    )
    if head != opening or later != lead or not _adds_up(tokenizer, config, extra):
        raise _refusal(tokenizer, "what it writes for a turn depends on later turns")
    return config


def _without_template(tokenizer: PreTrainedTokenizerBase) -> PromptConfig:
    if tokenizer.eos_token is None:
        raise _refusal(tokenizer, "there is none, and no eos_token to end an answer with")
    begins = tokenizer.bos_token_id is not None and (
        tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    )
    if not begins:
        return BUNNY_PROMPT
    return replace(BUNNY_PROMPT, opening=tokenizer.bos_token + BUNNY_PROMPT.opening, special=True)


def _render(tokenizer: PreTrainedTokenizerBase, turns: int, open_end: bool) -> str:
    """Render a conversation of known words; open_end: its last question waits for an answer."""
    messages = []
    for asked, said in list(zip(ASKED, SAID, strict=True))[:turns]:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    try:
        text = tokenizer.apply_chat_template(
            messages[:-1] if open_end else messages,
            tokenize=False,
            chat_template=FIXED_DATE + tokenizer.get_chat_template(),
            add_generation_prompt=open_end,
            # for the templates that take them
            enable_thinking=False,
            date_string=DATE.strftime("%d %b %Y"),
        )
    except (TemplateError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise _refusal(tokenizer, f"it cannot be rendered: {reason}") from error
    # Tokens such as Phi-3's take the white space around them in.
    for token in tokenizer.added_tokens_decoder.values():
        name = re.escape(token.content)
        text = re.sub(rf"({name})\s+", r"\1", text) if token.rstrip else text
        text = re.sub(rf"\s+({name})", r"\1", text) if token.lstrip else text
    return text


def _cut(tokenizer: PreTrainedTokenizerBase, turns: int, *, open_end: bool = False) -> list[str]:
    """Return the text before, between and after the known words of a conversation."""
    words = [word for turn in zip(ASKED, SAID, strict=True) for word in turn][: 2 * turns]
    words = words[:-1] if open_end else words
    text, parts = _render(tokenizer, turns, open_end), []
    for word in words:
        part, found, text = text.partition(word)
        if not found or word in text:
            raise _refusal(tokenizer, "it does not write each question and answer once, in order")
        parts.append(part)
    return [*parts, text]


def _answer_lead(before_answer: str, lead: str) -> tuple[str, str]:
    """Compare what precedes an answer to be given and one of the past: return what the latter has
    more, which belongs to the answer, and what it has less.
    """
    if lead.startswith(before_answer):
        return lead[len(before_answer) :], ""
    extra = before_answer[len(lead) :] if before_answer.startswith(lead) else ""
    return "", extra if THOUGHT in extra else ""


def _end_token(tokenizer: PreTrainedTokenizerBase, between: str) -> str:
    """Find the first token that was added to the vocabulary in what follows an answer."""
    names = {token.content for token in tokenizer.added_tokens_decoder.values()}
    names = {name for name in names if name.strip() and name in between}
    if not names:
        raise _refusal(tokenizer, "no token of its own ends an answer")
    return min(names, key=lambda name: (between.index(name), -len(name)))


def _adds_up(tokenizer: PreTrainedTokenizerBase, config: PromptConfig, extra: str) -> bool:
    """Say whether the pieces, laid out one after another, are what the template renders."""
    answers = [config.answer + said + config.after_answer + config.end for said in SAID]
    text = config.opening + config.first_question
    for k, asked in enumerate(ASKED):
        text += (config.next_question if k else "") + asked + config.before_answer
        waiting = _render(tokenizer, k + 1, open_end=True)
        if _without(text, extra) != _without(waiting, extra):
            return False
        text += answers[k]
    return _without(_render(tokenizer, 3, open_end=False), extra).startswith(_without(text, extra))


def _without(text: str, extra: str) -> str:
    return text.replace(extra, "") if extra else text


def _refusal(tokenizer: PreTrainedTokenizerBase, reason: str) -> ConfigError:
    name = tokenizer.name_or_path or "the tokenizer"
    return ConfigError(f"{name}: its chat template cannot be used ({reason})")
