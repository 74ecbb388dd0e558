"""What was asked and what was found: nouns, frozen and validated. Imports no torch."""
