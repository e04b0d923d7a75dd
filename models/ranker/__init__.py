"""The ranker: a shared table of embeddings, feature crosses, interest in the history, a head per event.

Read `config`, `model`, then its parts: `layout` and `encoding` (features -> rows of tables), `unified` (the shared
table), `interest`, `dcn`, `loss`. Training rows: `examples`, `cross`, `data`, `batch`, `source`. Afterwards: `measure`,
`calibration`. Nothing here needs TorchRec; the training run is `models.training.ranker`, the ranking stage of the page
maker `models.recommend.model_ranker`.
"""
