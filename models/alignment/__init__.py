"""GRPO-SR (arXiv 2604.14878, section 2.4): GenRec aligned with the ranker's taste by on-policy policy gradients.

Mathematics only, on any device. Read in this order: `config`, `rollouts` (candidates of the policy), `reward` (gate,
ranker score, calibration), `admission` (which requests take part), `shared_prefix` (log-probabilities of many responses
to one prompt), `objective` (the loss).
"""
