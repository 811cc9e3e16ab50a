"""The page: one clip on the left for all, tabs on the right: ask, find moments, library, API."""

from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from avchat.media import load_media
from avchat.ui import (
    api_tab,
    ask_events,
    ask_tab,
    clip_column,
    endpoints,
    finding_endpoints,
    library_endpoints,
    library_tab,
    moments_tab,
)
from avchat.ui.app import App, Example
from avchat.ui.clips import Clip
from avchat.ui.doors import forget_session
from avchat.ui.words import say
from avchat.world.examples import example_clips, example_film

# What Gradio itself keeps of uploads: look every ten minutes, delete what is older than an hour. A
# clip that was opened has a link of its own, which goes with its person.
DELETE_CACHE_S = (600, 3600)


def load_examples(home: Path) -> list[Example]:
    """Render the example clips and the film, where they are not there yet, with thumbnails."""
    found = [
        Example(path, question, thumbnail_of(path), question)
        for path, question in example_clips(home)
    ]
    film, sought = example_film(home)
    label = f"find in a film: {sought}"
    return [*found, Example(film, label, thumbnail_of(film), "What do you hear?", sought)]


def thumbnail_of(path: Path) -> Path:
    """Write a picture from the middle of a clip beside it."""
    thumbnail = path.with_suffix(".png")
    if not thumbnail.exists():
        Image.fromarray(load_media(path, frames=1).frames[0]).save(thumbnail)
    return thumbnail


def build(app: App) -> gr.Blocks:
    """Lay the page out and connect it."""
    # fill_width: the style sheet alone says how wide the page is
    with gr.Blocks(
        title="avchat", analytics_enabled=False, fill_width=True, delete_cache=DELETE_CACHE_S
    ) as page:
        # first: events of the page would take their names
        more = [*finding_endpoints.endpoints_of(app), *library_endpoints.endpoints_of(app)]
        endpoints.connect(app, more)
        gr.Markdown(say("intro"), elem_id="title")
        notice = app.engine.model.config.notice
        if notice:
            gr.Markdown(f"Note: {notice}.", elem_id="notice")
        with gr.Row(equal_height=False, elem_id="body"):
            with gr.Column(scale=5, min_width=320, elem_id="clip-column"):
                column = clip_column.lay_out(app)
            with gr.Column(scale=6, min_width=320, elem_id="tabs-column"):
                with gr.Tabs(elem_id="tabs") as tabs:
                    with gr.Tab(say("tab_ask"), id="ask"):
                        asked = ask_tab.lay_out(app)
                    with gr.Tab(say("tab_moments"), id="moments"):
                        found = moments_tab.lay_out(app)
                    with gr.Tab(say("tab_library"), id="library") as shelf:
                        library = library_tab.lay_out(app)
                    with gr.Tab(say("tab_api"), id="api") as place:
                        api = api_tab.lay_out(app, place)

        def after(clip: Clip | None, question: str) -> list[Any]:
            """Give what a new clip changes in the tabs."""
            return [*ask_tab.for_clip(app, clip, question), *moments_tab.for_clip(clip)]

        def leave(request: gr.Request) -> None:
            """Forget whoever closes the page."""
            app.visitors.leave(request.session_hash)
            forget_session(page, request.session_hash)

        more = [*asked.of_clip, *found.of_clip]
        clip_column.connect(app, column, after, more, [found.text, found.by, tabs])
        ask_events.connect(app, asked, column, tabs)
        moments_tab.connect(app, found, column, asked, tabs)
        library_tab.connect(app, library, column, asked, tabs, shelf, after, more)
        api_tab.connect(app, api, asked)
        page.unload(leave)
    return page
