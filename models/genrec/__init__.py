"""GenRec (arXiv 2604.14878): a decoder-only generative recommender over semantic IDs.

Modules and losses run on any device without TorchRec. Read in this order: `config`, `data` (packed sequences), `layers`
and `model` (the decoder and the Token Merger), `loss` (page-wise and point-wise next-token prediction), `decode` (beam
search over the trie), `hf` (conversion to and from Hugging Face's Qwen2). Item vectors come from `models.embedding`.
"""
