"""The batch pipelines: raw tables -> clean tables -> pages, item statistics, item transitions -> sequences.

Read in this order: `config`, `jobs` (the three stages; `stage` and `runner` are what they share), `transforms`,
`validate_transforms` and `feature_transforms` (the Beam side: elements are Arrow tables), then the arithmetic, which
knows nothing of Beam: `raw` and `parse` (files -> columns), `checks`, `pages`, `split` and `entries`, `statistics`,
`sequences`.
"""
