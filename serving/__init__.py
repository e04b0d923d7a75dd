"""The Ray Serve application around `models.recommend`.

Read in this order: `config`, `api` (requests and answers), `service` (the core: store -> page maker -> answer, no Ray),
`backend` (threads, deadlines), `routes` (HTTP and its errors), `app` (the Ray Serve deployment, batches), `run` (start,
swap, stop), `folders` (what a killed service leaves in /tmp).
"""
