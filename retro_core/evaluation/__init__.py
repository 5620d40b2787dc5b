"""Does retrieval help, and by how much? Held-out documents scored in many readings, with intervals.

held_out     documents, windows, and what they may read
readings     ways to read: on, off, random, shuffled, bm25, N-only, F-only, fewer neighbours; oracle
losses       nats of every scored token in each reading
statistics   bootstrap over documents, correlations, bins
summary      bits per byte, perplexity, differences, the table of documents
leakage      bits per byte against what could be copied · relations  the gain against what was read
reference    the reference implementation's own number
questions    exact match and F1 of answers, On and Off
swap         the same prompts with another datastore: do the facts change?
answering    what both share: prompts looked up, continued and scored by the batch
windows      the short form that training uses
sweeps, comparators (in_context, knn_lm, copying), questions, swap    what else is measured
measure      all of it as one result · report  the result as pages · result  its file names, without torch
"""
