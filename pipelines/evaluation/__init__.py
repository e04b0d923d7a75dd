"""Full-catalogue evaluation: every retriever on the same cases, intervals, slices, plots, sample pages.

Read in this order: `config` (options), `evaluate` (the run), `slices` (which cases and items), `comparison` (means,
paired differences), `sampling` (cases and pages drawn at random), `report` (the results), `plots`.
"""
