"""Each rater's secret: a token that stands in the link to their page."""

import json
import os
import secrets
from pathlib import Path

from unweave.core.errors import StoreError
from unweave.store.artifact import read_json
from unweave.study import Study

LINKS = "links.json"
_BYTES = 24


def tokens(study: Study) -> dict[str, str]:
    """Token of every rater, made when they are first asked for and the same ever after.

    They lie in `links.json` in the study's folder, which only its owner may read.

    Raises:
        StoreError: that file is damaged, or belongs to other raters.
    """
    path = study.folder / LINKS
    if not path.exists():
        _create(path, {rater: secrets.token_urlsafe(_BYTES) for rater in study.plan.raters})
    found = read_json(path)
    if (
        not isinstance(found, dict)
        or list(found) != study.plan.raters
        or not all(isinstance(token, str) and token for token in found.values())
    ):
        raise StoreError(f"{path} does not hold one token for each rater; remove it, and raters get new links")
    return {rater: str(token) for rater, token in found.items()}


def _create(path: Path, made: dict[str, str]) -> None:
    """Write the file whole and readable by its owner alone, unless another server wrote one at the same moment."""
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(made, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
