"""The online store: what the server needs to know about users and items within a millisecond.

Read in this order: `config`, `base` (the interface and what it returns), `codec` and `feature_codec` (the payloads of
the binary blobs), `keys`, `connections` (one Redis, Sentinels, a cluster), `generations` and `leases`, `blob_store` and
`redis_store` (the implementation), `reading` (plans of one round trip), `embedded` (one Redis server per workspace,
started and stopped by itself), `histories`, `filling` and `backfill` (tables -> store).
"""
