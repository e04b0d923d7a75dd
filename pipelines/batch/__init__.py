"""The batch pipelines: raw tables -> clean tables -> pages, item statistics, item transitions -> features -> sequences.

Read in this order: `config`, `jobs` and `feature_jobs` (the stages; `stage` and `runner` are what they share),
`transforms`, `validate_transforms`, `feature_transforms` and `folding_transforms` (the Beam side: elements are Arrow
tables), then the arithmetic, which knows nothing of Beam: `raw` and `parse` (files -> columns), `checks`, `pages`,
`split` and `entries`, `statistics`, `folding`, `sequences`.
"""
