"""Files of an older commit are read, continued and made again as they were (see keeping.py).

All goes through the command line and what the rooms hand out: nothing here knows a module inside.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any

import keeping
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

TABLES = ("table", "windows", "table-early", "table-mean")
AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL")


@pytest.fixture(scope="module", autouse=True)
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of what is kept; tests work in it, on one thread, and write beside it."""
    folder = keeping.unpack(tmp_path_factory.mktemp("kept"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as they were made: the order of sums is that of threads
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TILEZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("TILEZOO_REGISTRY", raising=False)
        yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alike(kept: Path) -> bool:
    """Whether this machine and its packages are those that made what is kept, to the last bit."""
    made = keeping.made_on(kept)
    made.pop("folder")
    return made == keeping.machine()


def read_json(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def bytes_of(folder: str | Path) -> dict[str, bytes]:
    """All files of a folder by their names, but hidden ones (locks, marks of files), pictures and TensorBoard's."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    beside = {"tensorboard", "locks"}
    own = [path for path in paths if path.suffix != ".png" and path.name[0] != "."]
    own = [path for path in own if not beside & set(path.parts)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in own}


def moments_of(folder: str | Path, pattern: str) -> dict[str, tuple[int, int]]:
    """Which files there are, and when they were written."""
    found = Path(folder).glob(pattern)
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copy(name: str, other: str) -> Path:
    return Path(shutil.copytree(name, other))


def from_here(rows: pa.Table) -> pa.Table:
    """Name sources from the folder that all lies in: it was another one then."""
    place = rows.schema.get_field_index("source_uri")
    if place < 0:
        return rows
    inside = [uri.rpartition("/tiles/")[2].rpartition("/")[2] for uri in rows[place].to_pylist()]
    return rows.set_column(place, rows.schema.field(place), pa.array(inside, pa.string()))


def read_rows(*paths: Path) -> pa.Table:
    tables = [pq.read_table(path).replace_schema_metadata(None) for path in paths]
    return from_here(pa.concat_tables(tables).combine_chunks())


def rows_of(table: str | Path) -> pa.Table:
    return read_rows(*(Path(table) / part["file"] for part in manifest_of(table)["parts"]))


def vectors_of(rows: pa.Table) -> NDArray[np.float32]:
    flat = rows["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(rows.num_rows, -1).astype(np.float32)


def manifest_of(table: str | Path) -> dict[str, Any]:
    return dict(read_json(Path(table) / "manifest.json"))


def check_same(found: Any, expected: Any, tolerance: float, where: str = "") -> None:
    """See that two values of JSON are equal, floats to a tolerance."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), where
        assert list(found) == list(expected), where
        for key, value in expected.items():
            check_same(found[key], value, tolerance, f"{where}.{key}")
    elif isinstance(expected, list):
        assert isinstance(found, list), where
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            check_same(found[number], value, tolerance, f"{where}[{number}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=tolerance, rel=tolerance), where
    else:
        assert found == expected, where


def check_table(found: str | Path, expected: str | Path, *, alike: bool) -> None:
    """See that two tables hold the same rows, failures and facts."""
    ours, theirs = rows_of(found), rows_of(expected)
    assert ours.schema == theirs.schema
    assert ours.drop_columns("embedding").equals(theirs.drop_columns("embedding"))
    tolerance = 1e-6 if alike else 1e-4
    half = 1e-3 * (ours.schema.field("embedding").type.value_type == pa.float16())
    np.testing.assert_allclose(
        vectors_of(ours), vectors_of(theirs), rtol=half, atol=max(tolerance, half)
    )
    check_errors(Path(found), Path(expected))
    check_facts(manifest_of(found), manifest_of(expected))
    for one in (found, expected):
        for part in manifest_of(one)["parts"]:
            assert hash_of(Path(one) / part["file"]) == part["sha256"]


def check_errors(found: Path, expected: Path) -> None:
    assert (found / "errors.parquet").exists() == (expected / "errors.parquet").exists()
    if (expected / "errors.parquet").exists():
        ours, theirs = (read_rows(one / "errors.parquet") for one in (found, expected))
        assert ours.drop_columns("message").equals(theirs.drop_columns("message"))


def drop_new_options(
    request: dict[str, Any], before: dict[str, Any], function: Callable[..., Any]
) -> dict[str, Any]:
    """Take out what could not be asked for before, and see that it was not."""
    asked = signature(function).parameters
    new = request.keys() - before.keys()
    assert {name: request[name] for name in new} == {name: asked[name].default for name in new}
    return {name: value for name, value in request.items() if name not in new}


def check_facts(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """See that two manifests differ in versions and hashes of files at most.

    A part's hash is over the paths of its sources too.
    """
    ours, theirs = ({**one, "versions": list(one["versions"])} for one in (found, expected))
    for one in (ours, theirs):
        one["parts"] = [{**part, "sha256": ""} for part in one["parts"]]
    from tilezoo.embed import embed

    ours["request"] = drop_new_options(ours["request"], theirs["request"], embed)
    check_same(ours, theirs, 0)


@pytest.mark.parametrize("name", TABLES)
def test_embedding_the_same_tiles_anew_gives_the_old_rows(name: str, alike: bool) -> None:
    keeping.run_kept(name, f"{name}-anew")
    check_table(f"{name}-anew", name, alike=alike)


@pytest.mark.parametrize("name", TABLES)
def test_the_file_keys_of_a_new_table_say_what_an_old_one_says(name: str) -> None:
    keeping.run_kept(name, f"{name}-keys")
    ours, theirs = (
        pq.read_schema(Path(folder) / "part-00000.parquet").metadata
        for folder in (f"{name}-keys", name)
    )
    assert list(ours) == list(theirs)
    assert json.loads(ours[b"geo"]) == json.loads(theirs[b"geo"])
    assert set(json.loads(ours[b"tilezoo"])) == set(json.loads(theirs[b"tilezoo"]))


def test_an_old_table_that_is_finished_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    from tilezoo.embed import embed

    before, written = bytes_of("table"), moments_of("table", "[a-z]*.*")
    keeping.run_kept("table")
    assert "table: finished already, nothing to do" in capsys.readouterr().err
    made = embed(
        "tiles",
        out="table",
        model="model",
        device="cpu",
        precision="fp32",
        batch_size=4,
        part_rows=8,
        max_errors=1,
    )
    assert (made.rows, made.failed) == (35, 1)
    assert bytes_of("table") == before
    assert moments_of("table", "[a-z]*.*") == written


def test_an_old_table_that_was_killed_goes_on_and_keeps_its_parts(alike: bool) -> None:
    out = copy("table-stopped", "table-resumed")
    before = moments_of(out, "part-*.parquet")
    assert len(before) == 2
    keeping.run_kept("table", str(out))
    after = moments_of(out, "part-*.parquet")
    assert len(after) == 5
    assert {name: after[name] for name in before} == before
    check_table(out, "table", alike=alike)
    assert not (out / ".segments").exists()


def test_an_old_part_of_a_part_is_kept_when_its_table_goes_on(alike: bool) -> None:
    """The scene is black by now, and as large as it was: only what is missing is read."""
    import rasterio

    scene = Path("scene.tif")
    before = scene.read_bytes()
    out = copy("windows-stopped", "windows-black")
    try:
        with rasterio.open(scene, "r+") as file:
            file.write(np.zeros((file.count, *file.shape), file.dtypes[0]))
        assert scene.stat().st_size == len(before)
        keeping.run_kept("windows", str(out))
    finally:
        scene.write_bytes(before)
    (kept,) = Path("windows-stopped/.segments").glob("*.parquet")
    count = pq.read_metadata(kept).num_rows
    ours, theirs = vectors_of(rows_of(out)), vectors_of(rows_of("windows"))
    assert len(ours) == len(theirs) > count
    assert (ours[:count] == theirs[:count]).all()
    assert (ours[count:] == ours[-1]).all()
    whole = copy("windows-stopped", "windows-resumed")
    keeping.run_kept("windows", str(whole))
    check_table(whole, "windows", alike=alike)


def check_pack(found: str | Path, expected: str | Path) -> None:
    """See that two packs hold the same bytes of pixels, rows, failures and facts."""
    found, expected = Path(found), Path(expected)
    ours, theirs = bytes_of(found), bytes_of(expected)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in theirs if name.endswith(".npy") and ours[name] != theirs[name]] == []
    assert pq.read_schema(found / "tiles.parquet").metadata[b"geo"]
    assert read_rows(found / "tiles.parquet").equals(read_rows(expected / "tiles.parquet"))
    check_errors(found, expected)
    facts = [read_json(one / "pack.json") for one in (found, expected)]
    for one in facts:
        one["versions"] = list(one["versions"])
    asked, before = facts[0]["request"], facts[1]["request"]
    from tilezoo.pretrain import pack

    facts[0]["request"] = drop_new_options(asked, before, pack)
    check_same(facts[0], facts[1], 1e-12)


@pytest.mark.parametrize("name", ["pack", "shards"])
def test_packing_the_same_tiles_anew_gives_the_old_bytes(name: str) -> None:
    keeping.run_kept(name, f"{name}-anew")
    check_pack(f"{name}-anew", name)


def test_an_old_pack_that_is_finished_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    from tilezoo.pretrain import pack

    before = bytes_of("pack")
    keeping.run_kept("pack")
    assert "pack: finished already, nothing to do" in capsys.readouterr().err
    made = pack("tiles", out="pack", labels="labels.csv", max_errors=1)
    assert (made.tiles, made.failed) == (35, 1)
    assert bytes_of("pack") == before


def test_an_old_pack_that_was_killed_goes_on_and_keeps_its_shards() -> None:
    out = copy("shards-stopped", "shards-resumed")
    before = moments_of(out, "shard-*.npy")
    assert len(before) == 1
    keeping.run_kept("shards", str(out))
    after = moments_of(out, "shard-*.npy")
    assert len(after) == 3
    assert {name: after[name] for name in before} == before
    check_pack(out, "shards")


def weights_of(run: str | Path) -> dict[str, Any]:
    return dict(torch.load(Path(run) / "checkpoints" / "last.pth", weights_only=True))


def check_run(found: str | Path, expected: str | Path, *, alike: bool) -> None:
    """See that two runs ended with the same weights, and logged the same."""
    ours, theirs = weights_of(found), weights_of(expected)
    assert list(ours) == list(theirs)
    assert ours["step"] == theirs["step"] == 9
    for network in ("student", "teacher"):
        assert list(ours[network]) == list(theirs[network])
        for name, tensor in theirs[network].items():
            limit = 0 if alike else 1e-4
            torch.testing.assert_close(
                ours[network][name], tensor, atol=limit, rtol=limit, msg=name
            )
    assert sorted(bytes_of(found)) == sorted(bytes_of(expected))
    asked, before = (read_json(Path(run) / "run.json") for run in (found, expected))
    assert list(asked) == list(before)
    for key in set(before) - {"versions", "commit"}:
        assert asked[key] == before[key], key


def read_log(run: str | Path) -> list[dict[str, Any]]:
    """A run's log without how fast it was."""
    lines = (Path(run) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    fast = ("images_per_s", "data_wait")
    return [{k: v for k, v in json.loads(line).items() if k not in fast} for line in lines]


def test_an_old_run_that_was_killed_goes_on_to_the_old_weights(alike: bool) -> None:
    out = copy("run-stopped", "run-resumed")
    assert weights_of(out)["step"] == 5
    keeping.run_kept("run", str(out))
    check_run(out, "run", alike=alike)
    # Losses are means since a process began.
    means = ("loss", "entropy", "spread")
    ours, theirs = ([{**e, **dict.fromkeys(means)} for e in read_log(one)] for one in (out, "run"))
    check_same(ours, theirs, 1e-12 if alike else 1e-3)


def test_the_same_pretraining_anew_gives_the_old_weights(alike: bool) -> None:
    keeping.run_kept("run", "run-anew")
    check_run("run-anew", "run", alike=alike)
    check_same(read_log("run-anew"), read_log("run"), 1e-12 if alike else 1e-3)


def test_an_old_run_that_is_finished_is_left_as_it_is() -> None:
    from tilezoo.pretrain import pretrain

    before = bytes_of("run")
    keeping.run_kept("run")
    words = read_json("commands.json")["run"]
    settings = [word for said, word in pairwise(words) if said == "--set"]
    made = pretrain("pack", out="run", settings=settings, device="cpu", precision="fp32")
    assert (made.steps, made.of_steps, made.complete) == (9, 9, True)
    assert made.loss == [entry["loss"] for entry in read_log("run") if "loss" in entry][-1]
    assert bytes_of("run") == before


def test_a_model_of_an_old_run_is_the_old_model(alike: bool) -> None:
    keeping.run_kept("model", "model-anew")
    ours, theirs = bytes_of("model-anew"), bytes_of("model")
    assert sorted(ours) == sorted(theirs)
    # safetensors writes a file's two facts in any order, so its hash may change.
    for name in sorted(set(theirs) - {"golden.safetensors", "SHA256SUMS"}):
        assert ours[name] == theirs[name], name
    golden, before = (load_file(f"{one}/golden.safetensors") for one in ("model-anew", "model"))
    assert list(golden) == list(before)
    for name, values in before.items():
        np.testing.assert_allclose(golden[name], values, rtol=0, atol=1e-6 if alike else 1e-4)


def space_of(model: str, **how: Any) -> Any:
    """The space a loaded model is of, as JSON gives it back."""
    from tilezoo.zoo import load

    return json.loads(json.dumps(load(model, device="cpu", **how).space.to_json()))


def test_an_old_model_verifies_and_is_of_its_old_space() -> None:
    from tilezoo.zoo import find_model, verify

    for name in ("model", "early"):
        assert {check.verdict for check in verify(name)} == {"ok"}, name
        stated = manifest_of("table" if name == "model" else "table-early")["space"]
        model = find_model(name)
        assert model.weights_sha256 == hash_of(Path(name) / "model.safetensors")
        assert model.space().fingerprint == stated["fingerprint"]
        assert space_of(name) == stated
    assert space_of("model", pooling="mean") == manifest_of("table-mean")["space"]


def test_a_model_of_an_old_registry_is_downloaded_as_it_was_published(kept: Path) -> None:
    from tilezoo.zoo import download

    revision = Path("registry/kept/vit/refs/main").read_text().strip()
    told = keeping.run_tilezoo("download", "kept/vit", "--registry", "registry", "--to", "got")
    assert "got" in told
    assert bytes_of("got") == bytes_of("model")
    by_revision = download(f"kept/vit@{revision}", registry=str(kept / "registry"), to="got-too")
    assert by_revision.weights_sha256 == hash_of(Path("model/model.safetensors"))
    assert bytes_of("got-too") == bytes_of("model")


def test_publishing_an_old_model_again_changes_nothing() -> None:
    from tilezoo.zoo import publish

    before = bytes_of("registry")
    assert keeping.run_kept("registry.txt") == Path("registry.txt").read_text()
    revision = Path("registry/kept/vit/refs/main").read_text().strip()
    assert publish("model", name="kept/vit", registry="registry") == revision
    assert bytes_of("registry") == before
    assert publish("model", name="kept/vit", registry="registry-anew") == revision
    assert bytes_of("registry-anew") == before


@pytest.mark.parametrize("name", ["search-row.json", "search-image.json", "search-place.json"])
def test_an_old_table_is_searched_by_its_old_index(kept: Path, name: str, alike: bool) -> None:
    text = keeping.run_kept(name).replace(keeping.made_on(kept)["folder"], str(kept))
    check_same(json.loads(text), read_json(name), 1e-6 if alike else 1e-4)


@pytest.mark.parametrize("name", ["table", "windows"])
def test_an_index_built_anew_answers_as_the_old_one(name: str, alike: bool) -> None:
    from tilezoo.io import to_builtins
    from tilezoo.search import build_index, search

    other = copy(name, f"{name}-indexed")
    shutil.rmtree(other / "index")
    kind = {"table": "auto", "windows": "ivf"}[name]
    facts = to_builtins(build_index(other, kind=kind, recall=0.9))
    before = read_json(Path(name) / "index/index.json")
    assert read_json(other / "index/index.json") == facts
    # Old recall was of ids, where equal vectors count as wrong.
    assert facts["recall_at_10"] >= before["recall_at_10"]
    own = ("p50_ms", "p95_ms", "measured_on", "open_ms", "sha256", "recall_at_10")
    ours, theirs = ({**one, **dict.fromkeys(own)} for one in (facts, before))
    check_same(ours, theirs, 1e-9 if alike else 0.05)
    if alike:
        assert bytes_of(other / "index")["index.faiss"] == bytes_of(f"{name}/index")["index.faiss"]
    tile = rows_of(name)["id"][0].as_py()
    answers = [search(folder, tile, k=5) for folder in (other, name)]
    assert [hit.id for hit in answers[0].hits] == [hit.id for hit in answers[1].hits]


def results_of(folder: str, *, fingerprints: bool) -> dict[str, Any]:
    """What results.json says, of versions only which, as if it lay where the old one does."""
    text = (Path(folder) / "results.json").read_text(encoding="utf-8")
    results = json.loads(text.replace(f"/{folder}/", f"/{folder.removesuffix('-anew')}/"))
    results["versions"] = list(results["versions"])
    if not fingerprints:  # those of tables made anew are over their sources' paths
        for table in results["tables"].values():
            table["fingerprint"] = ""
    return dict(results)


def report_of(folder: str, name: str) -> str:
    """What report.md says, as if it lay where the old one does, of tables without fingerprints."""
    text = (Path(folder) / "report.md").read_text(encoding="utf-8").replace(folder, name)
    for table in read_json(Path(folder) / "results.json")["tables"].values():
        text = text.replace(table["fingerprint"], "fingerprint")
    return text


@pytest.mark.parametrize("name", ["probe", "probe-blocks", "compare"])
def test_the_same_probe_gives_the_old_results_and_the_old_report(name: str, alike: bool) -> None:
    if name == "compare" and not alike:
        pytest.skip("another torch draws other random weights for the control")
    made = f"{name}-anew"
    keeping.run_kept(name, made)
    saved = name != "compare"
    ours, theirs = (results_of(folder, fingerprints=saved) for folder in (made, name))
    check_same(ours, theirs, 1e-6)
    assert report_of(made, name) == report_of(name, name)
    predicted = sorted(path.name for path in Path(name).glob("predictions-*.parquet"))
    assert predicted == sorted(path.name for path in Path(made).glob("predictions-*.parquet"))
    for file in predicted:
        check_same(
            pq.read_table(Path(made) / file).to_pylist(),
            pq.read_table(Path(name) / file).to_pylist(),
            1e-6,
        )


def test_the_function_of_a_probe_gives_the_old_results_of_old_tables() -> None:
    from tilezoo.probe import probe

    made = probe(
        ["cls=table", "mean=table-mean"],
        control=["early=table-early"],
        labels="labels.csv",
        out="probe-function",
        fractions="50,100",
        seeds=2,
        bootstrap=200,
        device="cpu",
        report=False,
    )
    old = read_json("probe/results.json")
    for key in old.keys() - {"versions"}:
        check_same(made.results[key], old[key], 1e-6, key)


def test_old_metadata_is_made_again_row_by_row() -> None:
    keeping.run_kept("metadata.parquet", "metadata-anew.parquet")
    for ending in (".parquet", ".errors.parquet"):
        ours, theirs = (pq.read_table(f"{name}{ending}") for name in ("metadata-anew", "metadata"))
        assert ours.schema.equals(theirs.schema)
        assert from_here(ours).equals(from_here(theirs))
    keys = [pq.read_schema(f"{name}.parquet").metadata for name in ("metadata-anew", "metadata")]
    assert json.loads(keys[0][b"geo"]) == json.loads(keys[1][b"geo"])


def test_the_request_of_an_old_launch_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sagemaker")
    for name in (*AWS, "AWS_DEFAULT_REGION", "AWS_REGION", "TILEZOO_INSTANCES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "no-config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "no-credentials")
    assert json.loads(keeping.run_kept("launch.json")) == read_json("launch.json")


@pytest.mark.parametrize("name", ["models.json", "show-zoo.json", "show-model.json"])
def test_models_are_told_as_they_were(name: str) -> None:
    ours, theirs = json.loads(keeping.run_kept(name)), read_json(name)
    for one in (ours, theirs):
        for facts in one if isinstance(one, list) else [one]:
            facts.pop("available", None)  # which is this machine's
            facts.pop("notes", None)  # prose, which names modules
    assert ours == theirs


def test_an_old_model_is_shown_as_it_was() -> None:
    assert keeping.run_kept("show-model.txt") == Path("show-model.txt").read_text()
