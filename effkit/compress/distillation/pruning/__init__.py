"""Students: smaller models made of their teacher (by depth, width, vocabulary) or in its image (from scratch)."""
