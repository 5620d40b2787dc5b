"""What changes with the step of a run: the learning rate, and how many chunks read a copy of the text."""

import math

from retro_core.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, constant, then down to `final_rate` of the peak over the last `decay_share` of the
    steps, linearly or along half a cosine; the schedule "constant" stays up.

    Until the decay begins nothing depends on `steps`, so a run can be lengthened or shortened by resuming it.
    """
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.learning_rate
    decay_steps = max(1, round(config.steps * config.decay_share))
    left = min(1.0, (config.steps - step) / decay_steps)
    if config.schedule == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * left)


def copy_share(step: int, config: TrainConfig) -> float:
    """Of the chunks, those that read a moved piece of the text itself; see `TrainConfig.copy_steps`."""
    return config.copy_share * max(0.0, 1 - step / config.copy_steps) if config.copy_steps else 0.0
