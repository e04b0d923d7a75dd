"""The Ray Serve application around `models.recommend`."""
