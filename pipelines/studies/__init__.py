"""Studies: one question, all its runs, one table with intervals.

Read `ssl`: does self-supervision help a two-tower?
"""
