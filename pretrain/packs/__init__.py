"""Packs: tiles of one size as memory-mapped arrays, for training."""
