"""The online store: what the server needs to know about users and items within a millisecond.

Read in this order: `config`, `base` (the interface and what it returns), `codec` and `feature_codec` (the binary
blobs), `redis_store` (the implementation on any Redis), `embedded` (one Redis server per workspace, started and stopped
by itself), `histories` and `backfill` (tables -> store).
"""
