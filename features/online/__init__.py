"""Folding events into the online store as they arrive, with the values that the batch pipelines find.

Read `config`, `recent` (what is kept of a user's newest events, and how duplicates are known by it), `users` (one range
of the stream folded into all views of its users), then `items`. All else is the arithmetic of one view each; reading
and writing the store is left to `users` and `items`.
"""
