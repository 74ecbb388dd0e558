"""Labelled sets of two markets, read from packages of data: healthcare and maintenance."""
