"""Commands of `python -m retro_core`, a module for each subject: `add(commands)` declares, functions run.

Results go to stdout, progress to stderr, as in `cli`.
"""
