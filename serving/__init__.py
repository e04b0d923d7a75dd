"""The Ray Serve application around `models.recommend`.

Read in this order: `config`, `api` (requests and answers), `service` (the core: store -> page maker -> answer, no Ray),
`backend` (batching, deadlines), `http` (routes and errors), `app` (the Ray Serve deployment), `run` (start and stop).
"""
