"""What commands that embed say about the embedder that was chosen."""

import sys

from indexing.commands.shown import follow
from indexing.embedder import DEFAULT_EMBEDDER, EMBEDDERS, describe, prepare_embedder

HELP = f"sentence encoder: {', '.join(EMBEDDERS)}, a folder, or a hub id (%(default)s)"


def introduce(name: str) -> None:
    """Say what choosing this embedder and not the default means, and make it ready, with progress, if it has
    to be made."""
    if name != DEFAULT_EMBEDDER:
        print(describe(name), file=sys.stderr)
    follow(prepare_embedder(name))
