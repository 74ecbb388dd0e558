"""Text to measure and train on, with labels and without, from what users have."""
