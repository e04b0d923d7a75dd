"""The self-supervised two-tower retriever: user and item vectors whose cosine says how well they fit.

Read in this order: `config` (all options), `bags` (jagged table rows), `schema` (which features exist and which values
they know), `inputs` (requests and items as what the towers read), `towers` (the modules and the sum of both losses),
`loss`, `frequency` (how likely an item is a negative), `masking` (the views of the self-supervised task), `source`
(training batches), `model` (vectors of new requests and items). Sharding, runs, MLflow: `models.training.two_tower`.

Sources: Yao et al., "Self-supervised Learning for Large-scale Item Recommendations", CIKM 2021 (arXiv 2007.12865);
Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019; Yang et al.,
"Mixed Negative Sampling for Learning Two-tower Neural Networks in Recommendations", WWW 2020 companion.
"""
