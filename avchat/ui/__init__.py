"""The browser app: `make_app`, then `launch`. Only app.py and `avchat demo` import it."""

import os
import sys
from pathlib import Path

import gradio as gr

from avchat.app_settings import Settings
from avchat.ui.app import App
from avchat.ui.engine import Engine
from avchat.ui.looks import HEAD, STYLES, THEME
from avchat.ui.page import build, load_examples
from avchat.ui.tools import no_tools
from avchat.ui.visitors import Visitors
from avchat.ui.words import say

__all__ = ["launch", "make_app"]


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
            css_paths=STYLES,
            head=HEAD,
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
