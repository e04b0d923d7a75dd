"""How models are trained, apart from what is trained: no mathematics of a model lives here.

Read in this order: `config` (all options), `loop` (the run: epochs, logging, evaluation, resume), `engine` (one step),
`optimizers`, `distributed` (sharding with TorchRec) and `tables` (its embedding tables), `checkpoints` (exact resume),
`export` (weights for evaluation and serving), `tracking` (MLflow), `genrec` (the generative recommender's run).
"""
