"""The page: a clip on the left, a conversation about it on the right.

Enters: a loaded model and example clips. Leaves: `gr.Blocks`. What belongs to one visitor lies in a
`Session` inside `gr.State`, so two visitors never share a clip.
"""

import html
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
from PIL import Image

from avchat.chat import Conversation
from avchat.media import MediaError, load_media
from avchat.model import AVChat
from avchat.prompt import PromptError
from avchat.receipt import in_words

SENSES = [("Sound + picture", "both"), ("Sound only", "sound"), ("Picture only", "picture")]
FILE_TYPES = ["video", "audio", "image"]
# Clips of visitors who left: look every hour, delete what is older than two.
DELETE_CACHE_S = (3600, 7200)
MAX_NEW_TOKENS = 256  # the longest description of 300 scenes of the world took 71
# One answer at a time on one machine: a second visitor waits in the queue.
QUEUE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
INTRO = """# avchat
Ask a clip what is seen and what is heard."""
EMPTY = "Drop in a clip, or take an example, and ask."


@dataclass
class Session:
    """One visitor's clip: its conversation with the model and the turns that the page shows."""

    conversation: Conversation
    turns: list[dict[str, str]] = field(default_factory=list)
    stop: Event = field(default_factory=Event)


@dataclass(frozen=True)
class Example:
    """A clip to try, a question that fits it, and a picture from its middle as a thumbnail."""

    path: Path
    question: str
    thumbnail: Path


def load_examples(clips: list[tuple[Path, str]]) -> list[Example]:
    """Write a thumbnail beside each example clip."""
    found = []
    for path, question in clips:
        thumbnail = path.with_suffix(".png")
        if not thumbnail.exists():
            Image.fromarray(load_media(path, frames=1).frames[0]).save(thumbnail)
        found.append(Example(path, question, thumbnail))
    return found


def build(model: AVChat, examples: list[Example]) -> gr.Blocks:
    """Lay the page out and connect it to the model."""
    with gr.Blocks(title="avchat", analytics_enabled=False, delete_cache=DELETE_CACHE_S) as page:
        session = gr.State(None)
        gr.Markdown(INTRO, elem_id="title")
        if model.config.notice:
            gr.Markdown(f"Note: {model.config.notice}.", elem_id="notice")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                upload, picks, shown = clip_column(examples)
            with gr.Column(scale=6, min_width=320):
                talk, sense, question, ask, stop = talk_column()
        connect_clip(model, examples, upload, picks, [session, *shown, talk, question])
        connect_talk(session, talk, sense, question, ask, stop)
    return page


def clip_column(examples: list[Example]) -> tuple[gr.File, list[gr.Button], list[Any]]:
    """Make the left column: upload, what is wrong with the clip, player, examples."""
    upload = gr.File(
        label="Your clip", file_types=FILE_TYPES, height=130, buttons=[], elem_id="upload"
    )
    status = gr.HTML("", visible=False, elem_id="clip-status")
    look: dict[str, Any] = {"label": "Clip", "interactive": False, "visible": False}
    video = gr.Video(**look, include_audio=True, elem_id="player")
    audio = gr.Audio(**look, buttons=["download"], elem_id="listener")
    image = gr.Image(**look, buttons=["download"], elem_id="viewer")
    with gr.Column(elem_id="examples", visible=bool(examples)):
        gr.Markdown("Or try one of these:")
        with gr.Row():
            picks = [
                gr.Button(example.question, icon=str(example.thumbnail), size="sm")
                for example in examples
            ]
    return upload, picks, [status, video, audio, image]


def talk_column() -> tuple[gr.Chatbot, gr.Radio, gr.Textbox, gr.Button, gr.Button]:
    """Make the right column: the conversation, the switch of the senses, the question."""
    talk = gr.Chatbot(
        label="Conversation",
        show_label=False,
        height=430,
        placeholder=EMPTY,
        buttons=["copy"],
        elem_id="talk",
    )
    with gr.Group():
        sense = gr.Radio(SENSES, value="both", label="The model may use", elem_id="sense")
        question = gr.Textbox(
            label="Question", placeholder="What do you see? What do you hear?", elem_id="question"
        )
    with gr.Row():
        ask = gr.Button("Ask", variant="primary", scale=2, min_width=90, elem_id="ask")
        stop = gr.Button("Stop", interactive=False, min_width=90, elem_id="stop")
    return talk, sense, question, ask, stop


def connect_clip(
    model: AVChat,
    examples: list[Example],
    upload: gr.File,
    picks: list[gr.Button],
    outputs: list[Any],
) -> None:
    """Open a clip when it is uploaded or taken from the examples; forget it when it is removed."""

    def open_upload(path: str) -> list[Any]:
        """Open a clip for questions; a new clip starts a new conversation."""
        return open_clip(model, Path(path), "")

    def forget() -> list[Any]:
        """Go back to the empty page."""
        return [None, gr.HTML("", visible=False), *players(None, ""), [], ""]

    def open_example(example: Example) -> list[Any]:
        """Open an example clip and put its question into the box; the upload is taken back."""
        return [*open_clip(model, example.path, example.question), None]

    upload.upload(open_upload, [upload], outputs, api_name="open", **QUEUE)
    upload.clear(forget, None, outputs, api_visibility="private")
    for pick, example in zip(picks, examples, strict=True):
        take = partial(open_example, example)
        pick.click(take, None, [*outputs, upload], api_visibility="private", **QUEUE)


def open_clip(model: AVChat, path: Path, question: str) -> list[Any]:
    """Give the values of [session, status, video, audio, image, talk, question] for a clip."""
    try:
        conversation = model.open(path, isolate=True)
    except (MediaError, PromptError) as error:
        wrong = gr.HTML(alert(str(error)), visible=True)
        return [None, wrong, *players(None, ""), [], question]
    media = conversation.media[0]
    kind = "image" if media.has_video and len(media.frames) == 1 else "video"
    kind = kind if media.has_video else "audio"
    warnings = "<br>".join(html.escape(warning) for warning in media.warnings)
    status = gr.HTML(warnings, visible=bool(warnings))
    return [Session(conversation), status, *players(path, kind), [], question]


def players(path: Path | None, kind: str) -> list[Any]:
    """Show the clip in the one player of video, audio and image that fits it."""
    parts = {"video": gr.Video, "audio": gr.Audio, "image": gr.Image}
    return [
        part(value=str(path) if name == kind else None, visible=name == kind)
        for name, part in parts.items()
    ]


def connect_talk(
    session: gr.State,
    talk: gr.Chatbot,
    sense: gr.Radio,
    question: gr.Textbox,
    ask: gr.Button,
    stop: gr.Button,
) -> None:
    """Answer when asked, and stop the model when told to."""
    gr.on(
        [ask.click, question.submit],
        answer,
        [session, question, sense],
        [talk, question, ask, stop],
        api_name="ask",
        show_progress="hidden",
        **QUEUE,
    )
    stop.click(stop_answer, [session], None, api_name="stop", queue=False)


def answer(session: Session | None, question: str, sense: str) -> Iterator[list[Any]]:
    """Answer a question about the open clip, word by word, with a receipt at the end."""
    if session is None:
        yield [[said("assistant", alert("open a clip first"))], question, *buttons(busy=False)]
        return
    session.stop.clear()
    session.turns += [said("user", html.escape(question)), said("assistant", "")]
    reply = session.turns[-1]
    yield [session.turns, "", *buttons(busy=True)]
    try:
        pieces = session.conversation.ask(
            question, sense, max_new_tokens=MAX_NEW_TOKENS, stop=session.stop
        )
        for piece in pieces:
            reply["content"] += html.escape(piece)
            yield [session.turns, "", *buttons(busy=True)]
    except PromptError as error:
        reply["content"] = alert(str(error))
    else:
        reply["content"] += receipt_line(session)
    yield [session.turns, "", *buttons(busy=False)]


def stop_answer(session: Session | None) -> None:
    """End the answer that is being written; the model stops before its next word."""
    if session is not None:
        session.stop.set()


def receipt_line(session: Session) -> str:
    """Put the receipt of the latest answer in words under it; the notice stands atop the page."""
    receipt = session.conversation.receipt
    assert receipt is not None, "an answer that was read to its end has a receipt"
    words = in_words(receipt, session.conversation.model.config.notice)
    words = f"Stopped. {words}" if session.stop.is_set() else words
    return f'<span class="receipt">{html.escape(words)}</span>'


def buttons(*, busy: bool) -> list[Any]:
    """Enable Ask or Stop, whichever makes sense now."""
    return [gr.Button(interactive=not busy), gr.Button(interactive=busy)]


def said(role: str, text: str) -> dict[str, str]:
    """Make one turn as the chat component wants it."""
    return {"role": role, "content": text}


def alert(message: str) -> str:
    """Show an error as one line that screen readers announce."""
    return f'<span class="error" role="alert">error: {html.escape(message)}</span>'
