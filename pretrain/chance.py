"""Random numbers without a state: each a hash of what it is for."""

import math

import numpy as np
from numpy.typing import NDArray

_Words = NDArray[np.uint64]

# The finaliser of SplitMix64 and its increment: Steele, Lea & Flood 2014, "Fast splittable
# pseudorandom number generators", OOPSLA, doi:10.1145/2660193.2660195, figure 17.
_STEPS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_ALL_BITS = (1 << 64) - 1
_SPARE_BITS = np.uint64(11)  # a float64 holds 53 of the 64


def uniforms(
    seed: int, epoch: int, tiles: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Numbers in [0, 1) of shape (len(tiles), *shape), each a hash of (seed, epoch, tile, position).

    So a tile's numbers are the same in every batch, on every process and after every resume.

    Args:
        seed: Any integer; its lowest 64 bits count.
        epoch: As the seed.
        tiles: A number for each tile, shape (B,); its place in the batch does not matter.
        shape: Of the numbers of one tile.
    """
    tile_words = np.asarray(tiles, np.int64).view(np.uint64)
    positions = np.arange(math.prod(shape), dtype=np.uint64)
    keys = _joined(_joined(_word(seed), _word(epoch)), tile_words)
    bits = _joined(keys[:, None], positions)
    whole = (bits >> _SPARE_BITS).astype(np.float64)
    return (whole * 2.0**-53).reshape(len(tile_words), *shape)


def _word(number: int) -> _Words:
    """One word as an array: arrays wrap around in silence, scalars warn."""
    return np.array([number & _ALL_BITS], np.uint64)


def _joined(keys: _Words, words: _Words) -> _Words:
    """Hash keys and words together; which is which matters."""
    return _mixed(keys ^ _mixed(words + _INCREMENT))


def _mixed(words: _Words) -> _Words:
    """Spread every bit over all 64, one to one."""
    for shift, factor in _STEPS:
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words
