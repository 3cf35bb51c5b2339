"""Launching speaks to the endpoints of the user's account, and to nobody else."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from moto_account import moto_account

_TRUST = (
    '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", '
    '"Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}]}'
)
_ACCOUNT = f"""
import boto3
boto3.client("iam").create_role(RoleName="training", AssumeRolePolicyDocument='''{_TRUST}''')
s3 = boto3.client("s3")
for bucket in ("tiles", "results"):
    s3.create_bucket(Bucket=bucket)
s3.put_object(Bucket="tiles", Key="shards/pack.json", Body=b"{{}}")
"""
# Every connection that Python opens is written down, whoever opens it.
_WATCHED = """
import sys
hosts = set()
def watch(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        hosts.add(arguments[1][:2])
    if event == "socket.getaddrinfo":
        hosts.add(arguments[:2])
sys.addaudithook(watch)
from tilezoo.launch import attach, launch
words = ["pretrain", "s3://tiles/shards", "-o", "run"]
where = {"output": "s3://results/jobs", "region": "us-east-1", "name": "watched"}
"""
_LAUNCHED = f"""{_WATCHED}
done = launch(words, role="training", wait=True, **where)
assert done.status == "Completed"
print(sorted(hosts))
"""
_DRY = f"""{_WATCHED}
assert launch(words, dry_run=True, **where).arn is None
print(sorted(hosts))
"""


@pytest.fixture
def proxy():
    """A proxy that lets nobody through, and keeps whom it was asked for."""
    asked = []

    class Refusing(BaseHTTPRequestHandler):
        def refuse(self):
            asked.append(self.path)
            self.send_error(403)

        do_CONNECT = do_GET = do_POST = do_PUT = do_HEAD = refuse  # noqa: N815

        def log_message(self, *_words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def _python(code, folder, proxy, **more):
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(folder), "HTTP_PROXY": proxy, "HTTPS_PROXY": proxy,
        "http_proxy": proxy, "https_proxy": proxy, "AWS_EC2_METADATA_DISABLED": "true", **more,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment, capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_a_dry_run_speaks_to_nobody(proxy, tmp_path):
    url, asked = proxy
    assert _python(_DRY, tmp_path, url) == "[]"
    assert asked == []


def test_a_launch_speaks_to_the_endpoint_it_was_given_alone(proxy, tmp_path):
    url, asked = proxy
    with moto_account() as endpoint:
        account = {
            "AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }  # fmt: skip
        _python(_ACCOUNT, tmp_path, url, **account)
        met = _python(_LAUNCHED, tmp_path, url, **account)
    assert asked == []
    assert met == str([("127.0.0.1", urlsplit(endpoint).port)])


def test_the_proxy_would_see_what_is_sent_elsewhere(proxy, tmp_path):
    url, asked = proxy
    code = (
        "import requests; requests.get('https://sm-pysdk-t-us-east-1.s3.us-east-1.amazonaws.com')"
    )
    with pytest.raises(AssertionError, match="403"):
        _python(code, tmp_path, url)
    assert asked == ["sm-pysdk-t-us-east-1.s3.us-east-1.amazonaws.com:443"]
