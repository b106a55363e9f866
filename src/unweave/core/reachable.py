"""Whether the hub can be reached at all, before anything waits for it."""

import os
import threading
from urllib.error import URLError
from urllib.request import Request, urlopen

ANSWER_SECONDS = 5.0
"""How long an address may take to answer."""


def switched_off() -> bool:
    """Whether the environment says that the hub shall not be asked."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in names)


def answers(address: str, seconds: float = ANSWER_SECONDS) -> bool:
    """Whether an address answers in time. A look-up of names has no time limit of its own, so a thread waits for it."""
    answered: list[bool] = []

    def ask() -> None:
        try:
            with urlopen(Request(address, method="HEAD"), timeout=seconds):  # noqa: S310 - the hub's own address
                answered.append(True)
        except (URLError, OSError, ValueError):
            return

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return bool(answered)
