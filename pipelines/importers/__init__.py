"""Importers: public data sets -> the raw tables `events`, `items`, perhaps `users` and `served_pages` of a workspace.

Each data set is one small module with a function `read(source, options)` that yields `Chunk`s of bounded size; nothing
holds a whole file. Read in this order: `base` (what a chunk is), `reading` (files -> batches of text columns), `sieve`
(bad rows -> rejects with a reason), one data set (`online_retail` shows everything), `registry` (the job that writes
the tables).

Example:
    >>> sorted(IMPORTERS)
    ['amazon-reviews', 'mind', 'movielens', 'online-retail', 'open-bandit', 'rees46', 'retailrocket', 's3rec']
"""

from pipelines.importers.registry import IMPORTERS, import_dataset

__all__ = ["IMPORTERS", "import_dataset"]
