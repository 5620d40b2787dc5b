"""RETRO Explorer: `python app.py`, then http://127.0.0.1:7860. On Hugging Face Spaces, `demo` is served."""

from app import settings

settings.prepare_environment()  # before gradio is imported

from app.ui import build_demo, launch_options  # noqa: E402

demo = build_demo()

if __name__ == "__main__":
    demo.launch(**launch_options())
