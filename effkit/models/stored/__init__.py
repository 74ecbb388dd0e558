"""Weights and caches in few bits, and the kernels that compute with them."""
