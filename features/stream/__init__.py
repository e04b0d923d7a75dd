"""The event stream: what the service and other producers append, and `pagewise stream` reads in ranges.

Read `config`, `records`, `base` (the interface), then `redis_stream` (the default) and `directory`; `opening` chooses.
"""
