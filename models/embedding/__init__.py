"""Embedding tables behind one interface: `plain` looks ids up one by one, `bags` pools them.

Their TorchRec forms, with the same state dicts, are `models.training.tables` and `models.training.bags`.
"""
