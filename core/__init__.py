"""tilezoo: a model zoo and embedding-extraction toolkit for overhead imagery.

This package is the ground floor (errors, tiles, spaces, tables); the verbs live in the rooms
above it: `tilezoo.zoo.load`, `tilezoo.embed.embed`, `tilezoo.search.search`.
"""

__version__ = "0.1.0"
