"""The RETRO model and what one does with it: generate, train, evaluate, explain.

Imports spell their module; `config` and `trace` need no torch.
"""
