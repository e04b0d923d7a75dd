"""The page maker: retrievers, rules, policy and `Recommender.pages`; pure and batched, no Ray, Beam or Redis in it.

Read in this order: `interface` (requests, candidates, the retriever's role), the retrievers, `rules`, `fusion`,
`policy`, `recommender`, `golden`, `release`; `requests` makes evaluation cases.
"""
