"""Does retrieval help, and by how much? Held-out documents scored in many readings, with intervals.

held_out     documents, windows, and what they may read
readings     ways to read: on, off, random, shuffled, bm25, N-only, F-only, oracle, fewer neighbours
losses       nats of every scored token in each reading
statistics   bootstrap over documents, correlations, bins
windows      the short form that training uses
"""

from retro_core.evaluation.windows import Probe, WindowLoss, probe, window_losses

__all__ = ["Probe", "WindowLoss", "probe", "window_losses"]
