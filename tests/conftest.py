"""Fixtures that many tests share: small models, written once a session."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import making
import pytest


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run one file in this process, and more files in a worker a core; each takes up to 2.5 GB."""
    one_file = len(config.args) == 1 and ".py" in config.args[0]
    return 0 if one_file else min(os.cpu_count() or 1, 8)


def pytest_xdist_setupnodes() -> None:
    """Have each worker, and each process that a test starts, compute in one thread.

    Libraries read this when they are imported.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory for 8-bit RGB at 64 px."""
    return making.write_vit(tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="session")
def sentinel_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory for Sentinel-2's B04, B03, B02 in 0..2000 at 64 px."""
    folder = tmp_path_factory.mktemp("models") / "sentinel-vit"
    return making.write_vit(folder, **making.SENTINEL2)


@pytest.fixture(scope="session")
def _session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(_session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """tilezoo's cache, one for the whole session, so that weights are converted once."""
    monkeypatch.setenv("TILEZOO_CACHE", str(_session_cache))
    return _session_cache


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., making.Done]:
    """Run `tilezoo` as its installed command does, in this process: importing torch takes long."""
    from tilezoo.cli.app import main

    def run_here(*words: object) -> making.Done:
        monkeypatch.setattr(sys, "argv", ["tilezoo", *map(str, words)])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return making.Done(code, *capfd.readouterr())

    return run_here


@pytest.fixture(scope="session")
def sdk_schema_checked_once() -> Iterator[None]:
    """Hold the SageMaker SDK's schema of its config to the schema of schemas once.

    The SDK does so at each of nine looks into the config a launch, half of a launch's time. The
    config itself is checked each time all the same.
    """
    from jsonschema.validators import validator_for

    from tilezoo.launch.sdk import quiet

    with quiet():
        from sagemaker.core.config import config_schema

    stated = config_schema.SAGEMAKER_PYTHON_SDK_CONFIG_SCHEMA
    checker = validator_for(stated)
    check = checker.check_schema
    checked = False

    def check_once(schema: object, *more: object, **options: object) -> None:
        nonlocal checked
        if not (checked and schema is stated):
            check(schema, *more, **options)
        checked = checked or schema is stated

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checker, "check_schema", check_once)
        yield


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket on a server that speaks S3."""
    from moto_account import moto_account  # s3fs and moto: not where the oldest versions are tried

    with moto_account() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import boto3

        boto3.client("s3").create_bucket(Bucket="zoo")
        yield "s3://zoo"
