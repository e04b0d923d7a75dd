"""Offline A/B replay: whether challenger B would have done better than champion A on the logged pages.

Read in this order: `config`, `rounds` (logged pages as arrays), `preparing` and `judging` (what each policy thinks of
them), `estimators`, `tally` (sums by buckets of users), `values`, `intervals`, `estimates`, `diagnostics`, `verdict`,
`job` (all of it on Beam), `report`.
"""
