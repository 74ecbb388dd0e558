"""One file a method; each enters through the table in `registry`."""
