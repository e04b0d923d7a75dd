"""Removing persons from what a workspace holds of them.

Read in this order: `rows` (which rows are somebody's), `tables` (committed tables), `given_files` (a user's own raw
files), `stream_log` (the stream's log), `job` (all of it, the online store included, and the report).
"""
