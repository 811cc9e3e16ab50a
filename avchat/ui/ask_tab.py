"""Tab 1: a talk about the clip in view, with what each answer rests on."""

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr

from avchat.media import MediaInfo
from avchat.ui.app import App
from avchat.ui.captions import pane
from avchat.ui.chat_log import alert
from avchat.ui.chat_log import messages as laid_out
from avchat.ui.clips import Clip, Options, moment
from avchat.ui.words import say

LINKS = """
element.ownerDocument.addEventListener("click", (event) => {
  const link = event.target.closest && event.target.closest('a[href^="#avchat-evidence-"]');
  if (!link) return;
  event.preventDefault();
  trigger("select", { number: Number(link.getAttribute("href").slice(17)) });
}, true);
"""


@dataclass
class AskTab:
    """Components of the tab."""

    talk: gr.Chatbot
    starters: gr.Radio
    sense: gr.Radio
    question: gr.Textbox
    part: gr.HTML  # the range that is asked about, in words
    part_of: gr.State  # (start, end) or None
    ask: gr.Button
    stop: gr.Button
    compare: gr.Button
    panel: gr.HTML
    links: gr.HTML
    settings: list[Any]
    reset: gr.Button
    exports: list[gr.Button]
    transcript: gr.HTML

    @property
    def of_clip(self) -> list[Any]:
        """Return what a new clip changes; `for_clip` gives the values."""
        named = [self.talk, self.question, self.starters, self.panel, self.part, self.part_of]
        return [*named, self.transcript]


DEFAULTS = (0, 0.0, 1.0, 0, Options.max_new_tokens, "", False)


def lay_out(app: App) -> AskTab:
    """Make the tab."""
    talk = gr.Chatbot(
        label=say("conversation"),
        show_label=False,
        height="46vh",
        min_height=260,
        placeholder=str(say("empty")),
        buttons=["copy"],
        editable="user",
        elem_id="talk",
    )
    starters = gr.Radio(
        [], label=say("starters"), visible=False, container=False, elem_id="starters"
    )
    part = gr.HTML("", visible=False, elem_id="part")
    with gr.Row(elem_id="composer"):
        question = gr.Textbox(
            label=say("question"),
            placeholder=say("question_hint"),
            show_label=False,
            container=False,
            scale=6,
            min_width=250,
            elem_id="question",
        )
        go = gr.Button(say("ask"), variant="primary", scale=2, min_width=80, elem_id="ask")
        stop = gr.Button(say("stop"), interactive=False, scale=1, min_width=80, elem_id="stop")
    with gr.Row(elem_id="senses"):
        senses = [
            (say("sense_both"), "both"),
            (say("sense_sound"), "sound"),
            (say("sense_picture"), "picture"),
        ]
        sense = gr.Radio(
            senses, value="both", label=say("may_use"), container=False, scale=4, elem_id="sense"
        )
        side = gr.Button(say("compare"), size="md", scale=1, min_width=120, elem_id="compare")
    panel = gr.HTML("", visible=False, elem_id="panel")
    transcript = gr.HTML("", visible=False, elem_id="transcript")
    with gr.Accordion(say("settings"), open=False, elem_id="settings"):
        settings, reset = lay_out_settings(app)
    with gr.Row(elem_id="exports"):
        exports = [
            gr.Button(say(name), size="sm", elem_id=name)
            for name in ("save_md", "save_json", "save_vtt")
        ]
    links = gr.HTML("", js_on_load=LINKS, elem_id="links")
    return AskTab(
        talk, starters, sense, question, part, gr.State(None), go, stop, side, panel, links,
        settings, reset, exports, transcript,
    )  # fmt: skip


def lay_out_settings(app: App) -> tuple[list[Any], gr.Button]:
    """Make the drawer of settings, in the order of `DEFAULTS`."""
    settings = [
        gr.Number(0, label=say("frames"), precision=0, minimum=0, elem_id="frames"),
        gr.Slider(0, 2, 0, step=0.05, label=say("temperature"), elem_id="temperature"),
        gr.Slider(0.05, 1, 1, step=0.05, label=say("top_p"), elem_id="top-p"),
        gr.Number(0, label=say("seed"), precision=0, minimum=0, elem_id="seed"),
        gr.Slider(1, 1024, DEFAULTS[4], step=1, label=say("max_tokens"), elem_id="max-tokens"),
        gr.Textbox("", label=say("system"), lines=2, elem_id="system"),
        gr.Checkbox(
            False,
            label=say("transcribe"),
            interactive=app.engine.transcriber is not None,
            elem_id="transcribe",
        ),
    ]
    return settings, gr.Button(say("reset"), size="sm", elem_id="reset")


def options_of(part: tuple[float, float] | None, settings: list[Any]) -> Options:
    """Read the settings drawer and the range."""
    frames, temperature, top_p, seed, most, system, transcript = settings
    start, end = part or (None, None)
    return Options(
        start, end, int(frames) if frames else None, system or "", bool(transcript),
        float(temperature), float(top_p), int(seed or 0), int(most),
    )  # fmt: skip


def for_clip(app: App, clip: Clip | None, question: str) -> list[Any]:
    """Give the values of `AskTab.of_clip`. Without a question what is typed stays."""
    talk = [] if clip is None else messages(app, clip)
    starters = starter_questions(clip.info) if clip is not None else []
    panel = gr.HTML("", visible=False)
    starters = gr.Radio(starters, value=None, visible=bool(starters))
    part = gr.HTML("", visible=False)
    return [talk, question or gr.skip(), starters, panel, part, None, transcript_of(clip)]


def transcript_of(clip: Clip | None) -> Any:
    """Show what was written down of a clip, if anything was."""
    lines = () if clip is None else clip.lines
    return gr.HTML(pane(lines) if lines else "", visible=bool(lines))


def starter_questions(info: MediaInfo) -> list[str]:
    """Suggest questions that suit a clip: none about a sound that is not there."""
    seen = ["What do you see?"] if info.has_video else []
    heard = ["What do you hear?"] if info.has_audio else []
    both = ["Which object makes the sound?"] if seen and heard and not info.is_still else []
    return [*seen, *heard, *both]


def messages(app: App, clip: Clip) -> list[dict[str, str]]:
    """Lay the talk out for the page."""
    found = laid_out(clip.exchanges, app.engine.model.config.notice)
    if clip.note and clip.under_way():
        found.append({"role": "assistant", "content": alert(clip.note)})
    return found


def part_values(span: tuple[float, float] | None) -> list[Any]:
    """Give the values of `part_of` and `part` for a range in seconds, or for the whole clip."""
    if span is None:
        return [None, gr.HTML("", visible=False)]
    words = f"About {moment(span[0])} to {moment(span[1])} only; clear the range to ask about all."
    return [span, gr.HTML(f'<span lang="en">{html.escape(words)}</span>', visible=True)]
