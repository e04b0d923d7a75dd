"""A seeded marketplace whose true rewards are known: it writes raw tables as a real shop would, and an oracle apart.

Read `config`, then `world` (what exists), `policy` (what is shown), `behaviour` (how people answer), `day` (how a day
goes by), `tables` (what is written), `oracle` (what is true) and `job` (the whole run).
"""
