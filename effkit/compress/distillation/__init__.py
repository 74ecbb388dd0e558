"""A smaller student learns from its teacher's outputs."""
