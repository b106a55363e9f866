"""Stage: a network and examples → an activation store."""

from unweave.capture.stage import Capture, capture

__all__ = ["Capture", "capture"]
