"""Random numbers that are hashes: even, unrelated, and the same wherever they are asked for."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilezoo.pretrain.draws import counter_rng

INT64 = st.integers(-(2**63), 2**63 - 1)
ALL_BITS = 2**64 - 1


def by_hand(seed: int, epoch: int, tile: int, position: int) -> float:
    """The same in Python's own whole numbers."""

    def mixed(word: int) -> int:
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & ALL_BITS
        word = (word ^ word >> 27) * 0x94D049BB133111EB & ALL_BITS
        return word ^ word >> 31

    key = seed & ALL_BITS
    for word in (epoch, tile, position):
        key = mixed(key ^ mixed((word + 0x9E3779B97F4A7C15) & ALL_BITS))
    return (key >> 11) / 2**53


def correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """In standard errors: beyond 4.5 once in 150,000 times."""
    return float(abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) * np.sqrt(first.size))


@settings(max_examples=50)
@given(st.integers(), st.integers(0, 10_000), INT64, st.integers(0, 29))
def test_a_number_is_a_hash_of_seed_epoch_tile_and_position(
    seed: int, epoch: int, tile: int, position: int
) -> None:
    numbers = counter_rng(seed, epoch, np.array([tile]), (3, 10))
    assert numbers[0].ravel()[position] == by_hand(seed, epoch, tile, position)


def test_numbers_stay_what_they_were() -> None:
    expected = by_hand(7, 3, 11, 0), by_hand(7, 3, 11, 1)
    assert counter_rng(7, 3, np.array([11]), (2,))[0].tolist() == list(expected)
    assert expected == (0.4103480811240716, 0.5703718974305709)


@settings(max_examples=50)
@given(st.lists(INT64, max_size=20), st.data())
def test_a_tile_has_its_numbers_in_every_batch(tiles: list[int], data: st.DataObject) -> None:
    whole = counter_rng(1, 2, np.array(tiles, np.int64), (2, 5))
    assert whole.shape == (len(tiles), 2, 5)
    cut = data.draw(st.integers(0, len(tiles)))
    parts = [
        counter_rng(1, 2, np.array(part, np.int64), (2, 5)) for part in (tiles[cut:], tiles[:cut])
    ]
    assert np.array_equal(whole, np.concatenate(parts[::-1]))


def test_numbers_are_even_over_0_to_1() -> None:
    numbers = counter_rng(0, 0, np.arange(2000), (100,))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=1000, range=(0, 1))[0]
    expected = numbers.size / 1000
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi2 - 999) < 4.5 * np.sqrt(2 * 999)


def test_every_bit_is_set_half_of_the_time() -> None:
    whole = (counter_rng(0, 0, np.arange(1000), (50,)) * 2**53).astype(np.uint64)
    for bit in range(53):
        share = (whole >> np.uint64(bit) & np.uint64(1)).mean()
        assert abs(share - 0.5) < 4.5 * 0.5 / np.sqrt(whole.size), bit


def test_neighbours_have_nothing_to_do_with_each_other() -> None:
    numbers = counter_rng(5, 9, np.arange(4000), (40,))
    assert correlation(numbers[:-1], numbers[1:]) < 4.5  # tiles
    assert correlation(numbers[:, :-1], numbers[:, 1:]) < 4.5  # positions
    assert correlation(numbers, counter_rng(5, 10, np.arange(4000), (40,))) < 4.5  # epochs
    assert correlation(numbers, counter_rng(6, 9, np.arange(4000), (40,))) < 4.5  # seeds
    assert (
        correlation(numbers, counter_rng(9, 5, np.arange(4000), (40,))) < 4.5
    )  # one for the other


def test_no_two_places_share_a_number() -> None:
    numbers = [counter_rng(s, e, np.arange(-50, 50), (20,)) for s in range(5) for e in range(5)]
    assert len(np.unique(numbers)) == 5 * 5 * 100 * 20
