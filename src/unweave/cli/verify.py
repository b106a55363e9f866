"""`unweave verify`: whether what lies on the disk is what was written."""

from dataclasses import dataclass

import tyro
from rich.console import Console

from unweave.cli.parsing import parse, unfilled
from unweave.core.errors import StoreError
from unweave.store.verify import verify

console = Console(highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True, kw_only=True)
class VerifyArguments:
    """Flags of `unweave verify`."""

    folder: tyro.conf.Positional[str]
    "an artifact, a run, or any folder with such below it; or a URL with stores below it"


def verify_command(given: list[str], program: str) -> None:
    """Compare every file of artifacts and runs with the checksum it was written with, and say what is damaged."""
    description = verify_command.__doc__ or ""
    read = parse(VerifyArguments, unfilled(VerifyArguments), given, program=program, description=description)
    found = verify(read.folder)
    for line in found.damaged:
        console.print(f"✗ {line}")
    for path in found.left:
        console.print(f"• {path} is a draft: under way, or left by a process that was killed")
    if found.damaged:
        raise StoreError(f"{read.folder}: {found}; remove what is damaged and start its command again")
    console.print(f"{read.folder}: {found}")
