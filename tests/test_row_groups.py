"""Single rows of large files: the right ones, from the groups that hold them alone."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilezoo.errors import TableError
from tilezoo.row_groups import RowGroups

IDS = st.lists(st.text(max_size=3), max_size=30)


def write(folder: Path, ids: list[str], files: int, group: int, **how: object) -> RowGroups:
    """Some ids with their numbers, in several files with groups of some rows."""
    step = -(-len(ids) // files) or 1
    paths = []
    for number in range(files):
        paths.append(folder / f"{number}.parquet")
        some = range(len(ids))[number * step : (number + 1) * step]
        columns = {
            "id": pa.array([ids[n] for n in some], pa.string()),
            "n": pa.array(some, pa.int64()),
        }
        pq.write_table(pa.table(columns), paths[-1], row_group_size=group, **how)
    return RowGroups(tuple(paths), tuple(map(pq.read_metadata, paths)))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(
    ids=IDS, files=st.integers(1, 3), group=st.integers(1, 9), told=st.booleans(), data=st.data()
)
def test_rows_are_those_of_the_whole_column(tmp_path, ids, files, group, told, data):
    rows = write(tmp_path, ids, files, group, write_statistics=told)
    asked = data.draw(st.sampled_from(ids) if ids else st.text())
    for wanted in (asked, data.draw(st.text(max_size=3))):
        assert rows.find(wanted) == (ids.index(wanted) if wanted in ids else None)
    numbers = sorted(
        data.draw(st.sets(st.sampled_from(range(len(ids)))) if ids else st.just(set()))
    )
    found = [
        row for batch in rows.take(np.array(numbers, np.int64), None) for row in batch.to_pylist()
    ]
    assert found == [{"id": ids[n], "n": n} for n in numbers]


def test_other_groups_are_not_read(tmp_path):
    rows = write(tmp_path, [f"{n:03d}" for n in range(100)], 2, 10, compression="none")
    for path, footer in zip(rows.files, rows.footers, strict=True):
        spoil(path, footer, keep=3)
    assert rows.find("035") == 35
    assert rows.find("0355") is None
    assert [batch.to_pylist() for batch in rows.take(np.array([85]), ["id"])] == [[{"id": "085"}]]


def spoil(path: Path, footer: pq.FileMetaData, keep: int) -> None:
    """Overwrite the pages of all groups but one."""
    content = bytearray(path.read_bytes())
    for number in set(range(footer.num_row_groups)) - {keep}:
        for column in range(footer.num_columns):
            chunk = footer.row_group(number).column(column)
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            end = start + chunk.total_compressed_size
            content[start:end] = b"\xff" * (end - start)
    path.write_bytes(content)


def test_damaged_rows_are_told_with_their_file(tmp_path):
    rows = write(tmp_path, list("abcdefgh"), 1, 4)
    spoil(rows.files[0], rows.footers[0], keep=1)
    with pytest.raises(TableError, match=r"0.parquet.*damaged; make the table again"):
        list(rows.take(np.array([2]), None))
    rows.files[0].unlink()
    with pytest.raises(TableError, match=r"0.parquet.*damaged; make the table again"):
        rows.find("e")


@pytest.mark.parametrize("numbers", [[-1], [0, 7], [7]])
def test_rows_that_are_not_there_are_an_error(tmp_path, numbers):
    with pytest.raises(IndexError, match="of 7"):
        list(write(tmp_path, list("abcdefg"), 2, 3).take(np.array(numbers), None))


def test_a_name_that_is_no_text_is_no_id(tmp_path):
    assert write(tmp_path, ["a", "b"], 1, 2).find("a\udcff") is None
