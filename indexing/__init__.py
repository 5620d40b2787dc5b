"""Text in, neighbours out: documents, chunks, embeddings, FAISS. Knows no language model.

Imports spell their module (`from indexing.neighbours import Neighbours`), so that importing the
shared words (`errors`, `paths`, `chunking`, `neighbours`, `chunks`, `tokenizer`) costs neither
torch nor faiss.
"""
