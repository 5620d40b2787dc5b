"""RETRO Explorer, the web app: the only room that knows Gradio."""
