"""What `funnel/index.py` stands on: collections, writing, reading files, BM25, filters, Qdrant."""
