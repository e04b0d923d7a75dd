"""What the service read, held against what the batch pipelines find for the same moments: the nightly check.

Read `comparing` (which values differ, by how much), `drift` (whether values are spread as in training), `users` and
`items` (the rows of some users and items checked), `findings` (what parts of the work come to together), `transforms`
(the Beam side), `report` (alerts), then `job`.
"""
