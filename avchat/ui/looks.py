"""How the page looks: theme, style sheets, and what a screen reader must know of the language.

Gradio rewrites style sheets: in a list of selectors only the first `.dark` counts, so a rule for
the dark page has one selector.
"""

import json
from pathlib import Path

import gradio as gr

from avchat.ui.player import PLAYER_CSS
from avchat.ui.results import RESULTS_CSS
from avchat.ui.words import WORDS

STYLES = [Path(__file__).with_name("style.css"), PLAYER_CSS, RESULTS_CSS]
# Texts reach 4.5:1 on their ground, edges of what can be used 3:1 (WCAG AA); Soft alone does not.
# No fonts from the network: the page works offline and tells no third party who visits it.
THEME = gr.themes.Soft(
    primary_hue="teal",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    color_accent="*primary_700",
    link_text_color="*primary_700",
    link_text_color_visited="*primary_700",
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover_dark="*primary_800",
    button_primary_text_color="white",
    button_secondary_border_color="*neutral_400",
    button_secondary_border_color_dark="*neutral_500",
    button_secondary_background_fill_dark="*neutral_800",
    button_secondary_background_fill_hover_dark="*neutral_700",
    button_border_width="1px",
    button_border_width_dark="1px",
    checkbox_label_background_fill_selected="*primary_700",
    checkbox_label_background_fill_selected_dark="*primary_700",
    checkbox_border_color="*neutral_500",
    checkbox_border_color_dark="*neutral_400",
    checkbox_background_color_selected="*primary_900",
    checkbox_background_color_selected_dark="*primary_900",
    checkbox_border_color_selected="white",
    checkbox_border_color_selected_dark="white",
    input_border_width="1px",
    input_border_color="*neutral_500",
    input_border_color_dark="*neutral_500",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    slider_color="*primary_700",
    slider_color_dark="*primary_400",
    block_background_fill="white",
    block_border_width="1px",
    block_label_background_fill="white",
    block_label_background_fill_dark="*neutral_800",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
    block_title_background_fill="transparent",
    block_title_background_fill_dark="transparent",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
    block_title_padding="0",
    block_padding="*spacing_lg",
    layout_gap="*spacing_lg",
)
# Gradio shows our words in the browser's language and leaves <html lang> at "en"; behind a dark
# page it leaves a light one.
HEAD = f"""<script>
document.documentElement.lang = {json.dumps(list(WORDS))}.find(
  (known) => navigator.language.toLowerCase().startsWith(known)) || "en";
</script>
<style>
:root body.dark {{ background: var(--body-background-fill); --color-accent: #2dd4bf; }}
@media (max-width: 640px) {{ html {{ scroll-padding-top: 30vh; }} }} /* under the player */
</style>"""
