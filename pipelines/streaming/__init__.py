"""The streaming pipeline: ranges of the event stream become logs in Parquet and features in the online store.

Read `log` (what is committed), `ranges` (how a range becomes so), `records` (messages to checked rows), `transforms`
(the Beam side), `features` (folding, item facts), `driver` (the loop), `metrics`.
"""
