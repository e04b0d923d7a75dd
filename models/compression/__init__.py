"""Embedding tables of a given number of bytes, made in five ways, under one and the same click model.

`layouts` says which rows of one table a value has, `network` is the model above them, `training` fits and measures it.
"""
