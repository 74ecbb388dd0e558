"""The devices of this machine: what they are, their clocks, memory and meters, and how fast they were seen to be."""
