"""The local demo and the Hugging Face Space: `python app.py`.

AVCHAT_MODEL names another model than the bundled one; Gradio's own variables (GRADIO_SERVER_PORT,
GRADIO_SERVER_NAME) are honoured.
"""

import os

from avchat.ui import launch, make_app

demo = make_app(os.environ.get("AVCHAT_MODEL", "tiny"))

if __name__ == "__main__":
    launch(demo)
