"""Pure array kernels: each has a slow reference, a fast CPU version and one conformance suite; none calls a model."""
