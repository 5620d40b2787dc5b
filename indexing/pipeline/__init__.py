"""The reference implementation's data pipeline: documents -> chunks -> embeddings -> index -> neighbours.

Its files are the reference's, byte for byte (docs/coming-from-the-reference.md tells what differs and why);
its steps are generators that work through batches, whatever the size of the corpus, and that go on where
they were when they are stopped and run again.
"""
