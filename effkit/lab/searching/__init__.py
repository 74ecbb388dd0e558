"""Searches: spaces of recipes, tried one by one or on a cluster, with what they share made once."""
