"""The ranker: a shared table of embeddings, feature crosses, interest in the history, a head per event."""
