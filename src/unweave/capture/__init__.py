"""Stage: a network and examples → an activation store, or a stream of rows that nothing stores."""

from unweave.capture.config import Capture
from unweave.capture.stage import capture
from unweave.capture.stream import StreamedRows, stream_several

__all__ = ["Capture", "StreamedRows", "capture", "stream_several"]
