"""`tilezoo verify`."""

import json
from dataclasses import asdict

from tilezoo.cli.options import Json, command
from tilezoo.zoo.options import VerifyOptions


@command(VerifyOptions, Json)
def run(options: VerifyOptions, own: Json) -> None:
    """Check a model's files, contract, weights and golden vectors on this machine."""
    from tilezoo.errors import ModelError
    from tilezoo.zoo import verify

    checks = verify.with_options(options)
    if own.as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            print(f"{check.verdict:9} {check.name}: {check.detail}")
    if any(check.verdict == "failed" for check in checks):
        raise ModelError(f"{options.name} does not verify")
