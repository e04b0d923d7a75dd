"""What models see: catalogue items and requests as columns of hashed ids and numbers (`features.columns`).

`items` turns the rows of a catalogue into columns, `requests` a batch of requests. Training, batch recommendation and
the service build their inputs here and nowhere else, so that a column means the same to all of them.
"""
