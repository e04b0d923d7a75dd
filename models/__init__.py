"""The models: tokenizer, GenRec, retrievers, metrics, training machinery and the page maker.

Read in this order: `tokenizer` (item -> semantic ID), `genrec` (the generative recommender: modules, losses, decoding),
`training` (sharding, checkpoints, tracking), `recommend` (from candidates to a page), `metrics`.
"""
