"""The browser app: `make_app`, then `launch`. Only app.py and `avchat demo` import it."""

import os
import signal
from pathlib import Path
from typing import Any

import gradio as gr

from avchat.app_settings import Settings, SettingsError, settings_of
from avchat.config import ModelError
from avchat.input_error import in_one_line
from avchat.input_error import say as tell
from avchat.transcripts import TranscriptError
from avchat.ui.app import App
from avchat.ui.doors import shut_doors
from avchat.ui.engine import Engine
from avchat.ui.looks import HEAD, STYLES, THEME
from avchat.ui.page import build, load_examples
from avchat.ui.tools import no_tools
from avchat.ui.visitors import Visitors
from avchat.ui.words import say

__all__ = ["FAULTS", "app_of_variables", "launch", "make_app", "serve"]

# What keeps the app from being made, in words for whoever starts it.
FAULTS = (SettingsError, ModelError, TranscriptError)


def make_app(settings: Settings) -> tuple[App, gr.Blocks]:
    """Load the models and build the page around them; examples are rendered on the first start.

    Raises one of FAULTS where a model cannot be had, or the examples cannot be kept.
    """
    home = cache_folder()
    engine, visitors = Engine(settings), Visitors(settings)
    try:
        examples = load_examples(home)
    except OSError as error:
        said = f"{home}: no example clips can be written there ({error.strerror})"
        raise SettingsError(f"{said}; XDG_CACHE_HOME names another folder") from error
    app = App(settings, engine, visitors, examples, home)
    return app, build(app)


def app_of_variables() -> tuple[App, gr.Blocks]:
    """Make the app that the variables describe; where that cannot be, end the program with one line
    `error: ...` and exit code 2.
    """
    try:
        return make_app(settings_of())
    except FAULTS as error:
        tell(in_one_line(error))
        raise SystemExit(2) from None


def launch(app: App, page: gr.Blocks) -> None:
    """Serve the page until Ctrl-C, or until the system ends it; then delete visitors' files."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lacking = no_tools(app.settings)
    if lacking:
        tell(f"note: no MCP tools: {lacking}")
    try:
        serve(app, page)
    finally:
        app.visitors.close()


def serve(app: App, page: gr.Blocks, **more: Any) -> None:
    """Serve the page. Host, port and the rest come from Gradio's own variables.

    Args: more: of Gradio's `launch`.
    """
    settings = app.settings
    shut_doors()
    gr.set_static_paths([app.visitors.root])  # served as they lie there: Gradio keeps no copies
    page.queue(max_size=settings.queue).launch(
        theme=THEME,
        css_paths=STYLES,
        head=HEAD,
        i18n=say,
        max_file_size=f"{settings.max_file_mb}mb",
        footer_links=["api"],
        mcp_server=not no_tools(settings),
        run_history=False,  # it would keep visitors' questions in the browser
        show_error=False,  # what nobody foresaw is in the log, not on the page
        share=False,
        auth=settings.users(),
        **more,
    )


def cache_folder() -> Path:
    """Name the folder of the rendered example clips and of the app's own library."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return home / "avchat" / "examples"
