"""Scheduled jobs.

Read in this order: `stages` (steps that are skipped while up to date), `inputs` (how that is found out), `data_stages`,
`model_stages`, `release_stages` and `replay_stage` (what each step reads, writes and calls), `daily_stages` (their
order), `lock` (one run at a time), `daily` (the job), `measure` (evaluation).
"""
