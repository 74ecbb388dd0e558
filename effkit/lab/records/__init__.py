"""Records: made by measuring, kept in a store, sent as files, run again."""
