"""The Ray Serve application around `models.recommend`.

Read in this order: `config`, `api` (requests and answers), `service` (the core: store -> page maker -> answer, no Ray)
with `pages` (one batch from requests to answers), `cursors` (lists that go on), `drawing`, `fallbacks` (parts that fail
or are slow) and `page_log`; `arms` (champion and challenger), `events` (what clients report), `users`; `backend`
(threads, deadlines), `assembly` (all of it together), `routes` (HTTP and its errors), `app` (the Ray Serve deployment,
batches), `gate` (what happens before a replica), `run` (start, swap, stop), `folders` (what a killed service leaves in
/tmp), `cluster` (where Ray runs already). The page for people is `web/`, with `web_files` and `web_routes`.
"""
