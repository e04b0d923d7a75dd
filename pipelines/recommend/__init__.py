"""Pages for every user at once: the release's page maker on Beam, into the table `recommendations`.

Read in this order: `config`, `job` (the stage), `transforms` (users meet their histories, states and attributes by
shard), `users` (what is known of them), `pages` (answers as rows).
"""
