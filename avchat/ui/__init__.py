"""The browser app: `make_app`, then `launch`. Only app.py and `avchat demo` import it."""

import os
import sys
from pathlib import Path

import gradio as gr

from avchat.app_settings import Settings
from avchat.ui.app import App
from avchat.ui.engine import Engine
from avchat.ui.page import build, load_examples
from avchat.ui.player import PLAYER_CSS
from avchat.ui.results import RESULTS_CSS
from avchat.ui.tools import no_tools
from avchat.ui.visitors import Visitors
from avchat.ui.words import say

__all__ = ["launch", "make_app"]

CSS = Path(__file__).with_name("style.css")
# No fonts from the network: the page works offline and tells no third party who visits it.
THEME = gr.themes.Soft(
    primary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    # Soft's middle teal on white is 2.5:1; these are above 4.5:1 (WCAG AA).
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_600",
    button_primary_text_color="white",
    checkbox_label_background_fill_selected="*primary_700",
    checkbox_label_background_fill_selected_dark="*primary_700",
    body_background_fill="*neutral_50",
    block_background_fill="white",
    block_border_width="1px",
    block_label_background_fill="white",
    block_label_background_fill_dark="*neutral_800",
    block_label_text_color="*neutral_700",
    block_title_background_fill="transparent",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
    block_label_text_color_dark="*neutral_200",
)


def make_app(settings: Settings) -> tuple[App, gr.Blocks]:
    """Load the models and build the page around them; examples are rendered on the first start.

    Raises ModelError or TranscriptError where a model cannot be had.
    """
    home = cache_folder()
    engine, visitors = Engine(settings), Visitors(settings)
    app = App(settings, engine, visitors, load_examples(home), home)
    return app, build(app)


def launch(app: App, page: gr.Blocks) -> None:
    """Serve the page until Ctrl-C. Host, port and the rest come from Gradio's own variables."""
    settings = app.settings
    lacking = no_tools(settings)
    if lacking:
        print(f"note: no MCP tools: {lacking}", file=sys.stderr)
    try:
        page.queue(max_size=settings.queue).launch(
            theme=THEME,
            css_paths=[CSS, PLAYER_CSS, RESULTS_CSS],
            i18n=say,
            allowed_paths=[str(app.visitors.root)],
            max_file_size=f"{settings.max_file_mb}mb",
            footer_links=["api"],
            mcp_server=not lacking,
            run_history=False,  # it would keep visitors' questions in the browser
            auth=settings.users(),
        )
    finally:
        app.visitors.close()


def cache_folder() -> Path:
    """Name the folder of the rendered example clips and of the app's own library."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return home / "avchat" / "examples"
