"""The local demo and the Hugging Face Space: `python app.py`.

Variables set it (avchat/app_settings.py lists them all): AVCHAT_MODEL names another model than the
bundled one. Gradio's own (GRADIO_SERVER_PORT, GRADIO_SERVER_NAME) are honoured.
"""

from contextlib import suppress

with suppress(ImportError):  # on a Space: before torch, or ZeroGPU has no GPU to lend
    import spaces  # noqa: F401

from avchat.ui import app_of_variables, launch

app, demo = app_of_variables()

if __name__ == "__main__":
    launch(app, demo)
