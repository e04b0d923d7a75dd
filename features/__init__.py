"""What an event, an item, a page, a feature and a semantic ID are.

Read in this order: `schemas` (table contracts and the one vocabulary of columns and event kinds), `workspace` (where
tables live and how they are committed), `columns` (hashed ids and numbers of rows), `definitions` (the one table of
features; then what they are made of: `events`, `states`, `memories`, `folds`), `point_in_time` (values strictly before
a moment), `values` (readers of features), `semantic_ids` (token vocabulary and catalogue), `store` (the online store),
`secrets` (passwords that nobody may read).
"""
