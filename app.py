"""RETRO Explorer: `python app.py`, then http://127.0.0.1:7860. On Hugging Face Spaces it runs by itself."""

import sys

from app import settings
from indexing.errors import InputError

try:
    settings.prepare_environment()  # before gradio is imported
    from app import janitor
    from app.ui import build_demo, launch_options

    demo, options = build_demo(), launch_options()
except InputError as error:  # of the environment
    sys.exit(str(error))

if __name__ == "__main__":
    janitor.start()
    demo.launch(**options)
