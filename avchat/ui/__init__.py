"""The browser app: `make_app`, then `launch`. Only app.py and `avchat demo` import it."""

import os
from pathlib import Path

import gradio as gr

from avchat.model import AVChat
from avchat.ui.page import build, load_examples
from avchat.world.examples import example_clips

__all__ = ["launch", "make_app"]

CSS = Path(__file__).with_name("style.css")
MAX_FILE_SIZE = "200mb"
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


def make_app(name: str = "tiny") -> gr.Blocks:
    """Load a model and build the page around it; examples are rendered on the first start.

    Args: name: as for `AVChat.from_pretrained`.
    """
    return build(AVChat.from_pretrained(name), load_examples(example_clips(cache_folder())))


def launch(app: gr.Blocks) -> None:
    """Serve the page until Ctrl-C. Host, port and the rest come from Gradio's own variables."""
    app.queue(max_size=32).launch(
        theme=THEME,
        css_paths=[CSS],
        allowed_paths=[str(cache_folder())],
        max_file_size=MAX_FILE_SIZE,
        footer_links=["api"],
        run_history=False,  # it would keep visitors' questions in the browser
    )


def cache_folder() -> Path:
    """Name the folder of the rendered example clips."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return home / "avchat" / "examples"
