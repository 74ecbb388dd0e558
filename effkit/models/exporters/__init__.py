"""One file a format; each enters through the table in `effkit.models.files.exporting`."""
