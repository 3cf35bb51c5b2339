"""Run huggingface_hub's own tests, from a checkout of it, against a hub of ours, and count.

    git clone https://github.com/huggingface/huggingface_hub co
    python benchmarks/hub_suite.py co

The tests are written for hub-ci.huggingface.co. They run as they are, with the checkout's own
client, in an environment that is made for them once (`--env`); below their HTTP client, what goes
to that address goes to `tilezoo hub` in place of it, as a proxy would send it. Nothing else has a
network. So that tests find what they take for granted, three things are arranged:

- the token file knows the three users whose tokens the tests have, and lets others read (`* read`);
- a new model gets the `.gitattributes` that huggingface.co puts into it;
- what the client asks huggingface.co itself to check, a card's front matter, is asked of the hub.

Counted are the tests that reach the hub. Those that are about something else than models without
pickles are told apart by what they send, see `KINDS`; of the rest, those that fail are listed.
"""

import argparse
import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

STAGING = "hub-ci.huggingface.co"
TOKENS = """hf_HubCITokenXXXXXXXXXXXXXXXXXXXXX write __DUMMY_HUB_USER__
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 write DVUser
hf_enterprise_admin_token write EnterpriseAdmin
* read
"""
# As a new model has it on huggingface.co, but for the kinds that are refused here.
ATTRIBUTES = b"".join(
    b"*%s filter=lfs diff=lfs merge=lfs -text\n" % kind
    for kind in (b".7z", b".h5", b".npy", b".npz", b".onnx", b".parquet", b".safetensors", b".zip")
)
# What a request is about, by its method, address and body: the first that fits tells.
KINDS = {
    "datasets, spaces, buckets, kernels": re.compile(
        r"/api/(datasets|spaces|buckets|kernels)\b|/(datasets|spaces|buckets)/|"
        r'"type": ?"(dataset|space|bucket|kernel)'
    ),
    "pull requests and discussions": re.compile(
        r"discussions|create_pr=1|refs%2Fpr|refs/pr|refs%2Fconvert"
    ),
    "pickles (.bin, .pkl, …)": re.compile(r"\.(bin|ckpt|joblib|pickle|pkl|pth?)\b"),
    "services of huggingface.co": re.compile(
        r"/api/(collections|users|organizations|settings/webhooks|papers|jobs|tasks|quicksearch|"
        r"trending|daily_papers|telemetry|agent|notifications)|/likes?\b|/duplicate|lfs-files|"
        r"EnterpriseOrg"
    ),
    "tokens and gates": re.compile(
        r'whoami-v2|user-access-request|"gated"|resourceGroupId|resource-groups'
    ),
}
NEEDED = (
    "pytest pytest-mock pytest-asyncio pytest-vcr pytest-timeout pytest-env jedi numpy pillow "
    "authlib fastapi itsdangerous jinja2 soundfile duckdb urllib3<2"
)
SETTINGS = """[pytest]
markers =
{markers}
filterwarnings = ignore
asyncio_mode = strict
"""
MARKERS = ("xet", "no_xet", "inference", "production", "deprecated", "git_lfs")


def main() -> None:
    """Make the environment, start a hub, run the tests, tell what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="A checkout of huggingface_hub: src and tests.")
    parser.add_argument("--env", type=Path, help="Where its environment is or is made.")
    parser.add_argument("--tests", nargs="*", default=["tests"], help="Only these.")
    parser.add_argument("--json", type=Path, help="Keep what was sent and what came of it.")
    asked = parser.parse_args()
    checkout = asked.checkout.resolve()
    python = make_environment(checkout, asked.env or checkout.with_name(f"{checkout.name}-env"))
    with tempfile.TemporaryDirectory() as work:
        report = Path(work) / "report.json"
        run_tests(python, checkout, asked.tests, Path(work), report)
        results = json.loads(report.read_text())
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=1))
    tell(results)


def make_environment(checkout: Path, env: Path) -> Path:
    """Install the checkout with what its tests import; give the environment's Python."""
    python = env / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", env], check=True)
        # a checkout of the tests alone has no client of its own
        client = checkout if (checkout / "setup.py").exists() else "huggingface_hub<2"
        install = [python, "-m", "pip", "install", "--quiet", client, *NEEDED.split()]
        subprocess.run(install, check=True)
    return python


def run_tests(python: Path, checkout: Path, tests: list[str], work: Path, report: Path) -> None:
    """Run the tests in a process of their own, with this file as pytest's plugin."""
    (work / "tokens").write_text(TOKENS)
    markers = "\n".join(f"  {marker}" for marker in MARKERS)
    (work / "pytest.ini").write_text(SETTINGS.format(markers=markers))
    hub = [sys.executable, "-c", "from tilezoo.cli.app import main; main()", "hub", work / "root"]
    log = work / "hub.log"
    with log.open("wb") as stderr:
        serving = subprocess.Popen(
            [*map(str, hub), "--port", "0", "--token-file", str(work / "tokens")], stderr=stderr
        )
    try:
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "SUITE_HUB": find_address(log), "SUITE_REPORT": str(report),
            "HUGGINGFACE_CO_STAGING": "1", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(work / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(Path(__file__).parent),
        }  # fmt: skip
        command = [
            python, "-m", "pytest", "-c", work / "pytest.ini", "--rootdir", checkout, "-q",
            "-p", Path(__file__).stem, "-p", "no:pytest_env", "-p", "no:cacheprovider",
            "-m", "not production and not xet and not inference", "--timeout", "60",
            "--tb", "short", "-r", "", *tests,
        ]  # fmt: skip
        subprocess.run([str(word) for word in command], cwd=checkout, env=env, check=False)
    finally:
        serving.terminate()
        serving.wait()


def find_address(log: Path) -> str:
    """Wait for the hub's first line; give host and port."""
    for _ in range(600):
        for line in log.read_text().splitlines():
            if '"listening"' in line:
                return str(json.loads(line)["url"]).removeprefix("http://")
        time.sleep(0.1)
    raise SystemExit(f"the hub did not start: {log.read_text()}")


def kind_of(requests: list[str]) -> str | None:
    """What a test is about, if it is about something else than models."""
    for kind, pattern in KINDS.items():
        if any(pattern.search(request) for request in requests):
            return kind
    return None


def tell(results: dict[str, dict]) -> None:
    """Print how many there are of each kind, and what fails."""
    reaching = {name: one for name, one in results.items()
                if one["requests"] and one["outcome"] != "skipped"}  # fmt: skip
    kinds = {name: kind_of(one["requests"]) for name, one in reaching.items()}
    print(f"\n{len(results)} tests, {len(reaching)} reach the hub")
    for kind in KINDS:
        found = Counter(reaching[name]["outcome"] for name in kinds if kinds[name] == kind)
        print(f"  about {kind}: {found.total()}, of which {found['passed']} pass")
    counted = {name: one for name, one in reaching.items() if kinds[name] is None}
    passed = sum(one["outcome"] == "passed" for one in counted.values())
    print(f"  about models: {len(counted)}, of which {passed} pass ({passed / len(counted):.1%})")
    for name, one in counted.items():
        if one["outcome"] != "passed":
            print(f"    fails: {name}: {one['why']}")


# Below: pytest's plugin, in the suite's environment. Nothing of tilezoo is there.

RESULTS: dict[str, dict] = {}
NOW = [""]


def pytest_configure() -> None:
    """Send what is meant for the staging hub to ours, and nothing anywhere else."""
    if "SUITE_HUB" not in os.environ:
        return
    import socket

    import httpx

    resolve, send = socket.getaddrinfo, httpx.HTTPTransport.handle_request

    def resolve_here(host, *words, **named):
        if host in ("127.0.0.1", "localhost", "::1", None):
            return resolve(host, *words, **named)
        raise socket.gaierror(-2, f"no network here: {host}")

    def send_here(transport, request):
        url = request.url
        if url.host != STAGING and url.path != "/api/validate-yaml":
            return send(transport, request)
        if url.host == STAGING:
            note(request)
        host, port = os.environ["SUITE_HUB"].split(":")
        request.headers.update({"Host": STAGING, "X-Forwarded-Proto": "https"})
        request.url = url.copy_with(scheme="http", host=host, port=int(port))
        try:
            return send(transport, request)
        finally:
            request.url = url

    socket.getaddrinfo = resolve_here
    httpx.HTTPTransport.handle_request = send_here
    add_attributes()


def note(request) -> None:
    """Keep what a test sends, without the bytes of files."""
    try:
        body = request.content.decode("utf-8", "replace")[:5000]
    except RuntimeError:  # a stream
        body = ""
    address = request.url.raw_path.decode()
    record(NOW[0])["requests"].append(f"{request.method} {address} {body}")


def add_attributes() -> None:
    """Have each new model begin with `.gitattributes`."""
    import httpx
    from huggingface_hub import HfApi

    create = HfApi.create_repo

    def create_repo(api, repo_id, **named):
        found = create(api, repo_id, **named)
        if found.repo_type in (None, "model") and not named.get("exist_ok"):
            headers = api._build_hf_headers(token=named.get("token"))
            content = base64.b64encode(ATTRIBUTES).decode()
            value = {"path": ".gitattributes", "content": content, "encoding": "base64"}
            lines = [{"key": "header", "value": {"summary": "initial commit"}},
                     {"key": "file", "value": value}]  # fmt: skip
            address = f"http://{os.environ['SUITE_HUB']}/api/models/{found.repo_id}/commit/main"
            text = "".join(f"{json.dumps(line)}\n" for line in lines)
            httpx.post(address, content=text, headers=headers).raise_for_status()
        return found

    HfApi.create_repo = create_repo


def record(name: str) -> dict:
    """The record of a test."""
    return RESULTS.setdefault(name, {"outcome": "passed", "why": "", "requests": []})


def pytest_runtest_logstart(nodeid: str) -> None:
    """Note which test runs."""
    NOW[0] = nodeid
    record(nodeid)


def pytest_runtest_logreport(report) -> None:
    """Note what came of a test; a failed preparation fails it."""
    if report.outcome != "passed":
        one = record(report.nodeid)
        one["outcome"] = report.outcome
        lines = [line for line in report.longreprtext.splitlines() if line.startswith("E  ")]
        one["why"] = " ".join(lines[-1].split())[2:300] if lines else report.longreprtext[-200:]


def pytest_sessionfinish() -> None:
    """Write down what came of all."""
    if "SUITE_REPORT" in os.environ:
        Path(os.environ["SUITE_REPORT"]).write_text(json.dumps(RESULTS))


if __name__ == "__main__":
    main()
