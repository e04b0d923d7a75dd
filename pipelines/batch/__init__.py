"""The batch pipelines: raw tables -> clean tables -> pages, item statistics, item transitions -> features -> sequences.

Read in this order: `config`, `jobs` (the stages: `validate_job`, `pages_job`, `statistics_job`, `feature_jobs`; `stage`
and `runner` are what they share), `transforms`, `validate_transforms`, `page_transforms`, `feature_transforms` and
`folding_transforms` (the Beam side: elements are Arrow tables), then the arithmetic, which knows nothing of Beam: `raw`
and `parse` (files -> columns), `checks`, `pages` and `served_pages`, `split` and `entries`, `statistics`, `folding`,
`sequences`. New events are folded into tables that stand: `increment` (when that is possible), `raw_inputs`, `merge`,
`page_changes`, `feature_plan`, `fold_new` and `fold_new_transforms`, `condensed`.
"""
