"""The words of the page in the visitor's language: `say("ask")` goes where Gradio takes a label.

words.json holds them, a dictionary for each language; Gradio chooses by the browser's language.
What models and receipts say stays as they say it, in English.
"""

import json
from pathlib import Path

import gradio as gr

WORDS: dict[str, dict[str, str]] = json.loads(
    Path(__file__).with_name("words.json").read_text(encoding="utf-8")
)
say = gr.I18n(**WORDS)
