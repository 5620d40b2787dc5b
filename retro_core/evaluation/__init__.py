"""Does retrieval help, and by how much? Held-out documents scored in many readings, with intervals.

held_out     documents, windows, and what they may read
readings     ways to read: on, off, random, shuffled, bm25, N-only, F-only, oracle, fewer neighbours
losses       nats of every scored token in each reading
statistics   bootstrap over documents, correlations, bins
searching    what held-out documents look into, open to be searched again
sweeps       k, size of the datastore, nprobe: the same tokens with one thing changed
comparators  in_context, knn_lm, copying: what else the same datastore could do; mixing chooses their weights
gains        what a point of a sweep and a comparator come to
windows      the short form that training uses
"""

from retro_core.evaluation.windows import Probe, WindowLoss, probe, window_losses

__all__ = ["Probe", "WindowLoss", "probe", "window_losses"]
