"""What an event, an item, a page, a feature and a semantic ID are.

Read in this order: `schemas` (table contracts and the one vocabulary of columns and event kinds), `workspace` (where
tables live and how they are committed), `semantic_ids` (token vocabulary and catalogue), `store` (the online store),
`secrets` (passwords that nobody may read).
"""
