"""Scheduled jobs.

Read in this order: `stages` (steps that are skipped while up to date), `lock` (one run at a time), `daily_stages` (what
each step reads, writes and calls), `daily` (the job).
"""
