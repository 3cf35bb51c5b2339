"""`tilezoo launch`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import Annotated, Any, Literal

import typer

from tilezoo.errors import OptionError

# What follows the command's verb is the command's, with or without -- before it.
CONTEXT = {"allow_interspersed_args": False}

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

Command = Annotated[
    list[str],
    typer.Argument(
        metavar="COMMAND",
        help="After --, a tilezoo command: pack, pretrain, embed, probe or compare; its data are s3://….",
    ),
]
Instance = Annotated[str, typer.Option(help="SageMaker's name of the instances' type.")]
Count = Annotated[int, typer.Option(help="Instances; several for pretrain only.")]
Role = Annotated[
    str | None, typer.Option(help="Name or ARN of the role the job takes.  [configured]")
]
Region = Annotated[str | None, typer.Option(help="Of the service and the data.  [configured]")]
Output = Annotated[
    str | None,
    typer.Option(metavar="S3", help="s3://… under which all of a job lies.  [default bucket]"),
]
Name = Annotated[str | None, typer.Option(help="Of the job.  [verb and time]")]
Image = Annotated[str | None, typer.Option(help="A container.  [SageMaker's PyTorch]")]
BackendOption = Annotated[
    Literal["auto", "smddp", "nccl", "gloo"],
    typer.Option(help="How processes talk. auto: SMDDP on several p4d or p4de, else NCCL on GPUs."),
]
Spot = Annotated[
    bool, typer.Option("--spot", help="Spare capacity: cheaper, and may be taken away.")
]
MaxHours = Annotated[float, typer.Option(help="After which SageMaker stops the job.")]
VolumeGb = Annotated[int, typer.Option(help="Room for data on each instance.")]
Env = Annotated[
    list[str] | None, typer.Option("--env", metavar="K=V", help="For the job's environment.")
]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="K=V", help="Put on the job.")]
Subnets = Annotated[list[str] | None, typer.Option("--subnet", help="Of a VPC.")]
SecurityGroups = Annotated[list[str] | None, typer.Option("--security-group", help="Of the VPC.")]
KmsKey = Annotated[str | None, typer.Option(help="Encrypts the volume and what the job writes.")]
PublishAs = Annotated[
    str | None,
    typer.Option(metavar="ORG/NAME", help="Publish a finished pretraining in OUTPUT/registry."),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job's log to its end.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the checked request as JSON; send nothing.")
]


def launch_command(
    command: Command,
    *,
    instance: Instance = "ml.g5.2xlarge",
    count: Count = 1,
    role: Role = None,
    region: Region = None,
    output: Output = None,
    name: Name = None,
    image: Image = None,
    backend: BackendOption = "auto",
    spot: Spot = False,
    max_hours: MaxHours = 24.0,
    volume_gb: VolumeGb = 100,
    env: Env = None,
    tags: Tags = None,
    subnets: Subnets = None,
    security_groups: SecurityGroups = None,
    kms_key: KmsKey = None,
    publish_as: PublishAs = None,
    wait: Wait = True,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run a tilezoo command as a training job on Amazon SageMaker.

    Each s3://… of the command is brought into the job; what it writes to -o lies in S3 as it goes.
    The same launch with -o s3://… goes on where a job was stopped.

    Example: tilezoo launch --instance ml.g5.2xlarge -- pretrain s3://bucket/shards -o run
    """
    from tilezoo.launch import launch
    from tilezoo.launch.run import processes_of

    parsed = check_command(command)
    if "recipe" in parsed:
        processes = processes_of(
            command, instance=instance, count=count, image=image, backend=backend
        )
        check_recipe(parsed, processes)
    result = launch(
        command,
        instance=instance,
        count=count,
        role=role,
        region=region,
        output=output,
        name=name,
        image=image,
        backend=backend,
        spot=spot,
        max_hours=max_hours,
        volume_gb=volume_gb,
        env=env or (),
        tags=tags or (),
        subnets=subnets or (),
        security_groups=security_groups or (),
        kms_key=kms_key,
        publish_as=publish_as,
        wait=wait,
        dry_run=dry_run,
        show_progress=True,
    )
    if dry_run:
        print(json.dumps(result.request, indent=2, ensure_ascii=False))
    elif as_json:
        print(json.dumps(asdict(result), indent=2, ensure_ascii=False))
    else:
        told = f"{result.status}, " if result.status else ""
        print(f"{result.name}: {told}result in {result.result}")


def check_command(words: Sequence[str]) -> dict[str, Any]:
    """Parse a command as the job will, so that a slip is told before anything is sent.

    Returns:
        The command's parameters.

    Raises:
        OptionError: No such command or option, or a value that does not fit.
    """
    from tilezoo.cli.app import app

    words = words[1:] if words[0] == "tilezoo" else words
    verbs = {one.name: one for one in app.registered_commands}
    verb = words[0] if words else ""
    if verb not in verbs:
        near = get_close_matches(verb, [name for name in verbs if name], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise OptionError(f"tilezoo has no command {verb!r}{hint}")
    command = typer.main.get_group(app).commands[verb]
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]  # of the click in this typer
    try:
        parsed: dict[str, Any] = command.make_context(verb, list(words[1:])).params
    except usage_error as error:
        said = getattr(error, "format_message", error.__str__)()
        raise OptionError(f"tilezoo {verb}: {said}") from error
    return parsed


def check_recipe(parsed: Mapping[str, Any], processes: int) -> None:
    """See that a pretraining's recipe is one, and that its batches divide among the processes.

    Raises:
        OptionError: No such recipe or setting, or a batch that does not divide.
    """
    from tilezoo.pretrain.recipe import find_recipe

    size = find_recipe(parsed["recipe"], parsed["settings"] or ()).batch_size
    if size % processes:
        raise OptionError(
            f"batch_size={size} does not divide among {processes} processes: "
            f"--set batch_size={max(1, round(size / processes)) * processes}"
        )
