"""A picture of the user's own, as the model and its latents see it."""

import io

import torch
from PIL import Image

from unweave.analyze.query import query
from unweave.app.opened import OpenAtlas
from unweave.app.pictures import png
from unweave.app.schema import ImageAnswer
from unweave.app.steering import active_latents, class_answers, data_address, near_examples
from unweave.app.views import finite
from unweave.core.errors import InputError
from unweave.datasets.image_files import BrokenImageError, read_image

LARGEST_BYTES = 32 << 20


def ask(opened: OpenAtlas, written: bytes) -> ImageAnswer:
    """What a picture's strongest latents are, which captured images are closest, and what the model answers.

    Args:
        opened: whose model is asked.
        written: the picture's file, in any format that Pillow decodes.

    Raises:
        InputError: it is no picture, or too large; or the run lacks its model.
    """
    if len(written) > LARGEST_BYTES:
        raise InputError(f"a picture may have up to {LARGEST_BYTES >> 20} MiB, this has {len(written) / 2**20:.1f}")
    network = opened.network
    channels, height, width = opened.image_shape
    try:
        pixels = read_image(io.BytesIO(written), height, channels)
        with Image.open(io.BytesIO(written)) as file:
            before = file.size
    except BrokenImageError as error:
        raise InputError(f"this file cannot be read as a picture{str(error)[str(error).find(':') :]}") from None
    if height != width:
        raise InputError(f"the model takes {width} × {height} pixels; pictures of one's own need a square")
    image = torch.tensor(pixels).float() / 255
    source = network.source(image.unsqueeze(0), "your image")
    answers = network.answers(source, [source.rows])
    with network.lock:
        found = query(network.model, network.dictionary, opened.activations, image, codes=opened.atlas.codes)
    return ImageAnswer(
        width=before[0],
        height=before[1],
        seen=data_address(png(pixels, side=160)),
        explained=finite(found.explained),
        active=active_latents(opened, source.codes),
        near=near_examples(opened, found.examples, found.similarities),
        near_by_code=near_examples(opened, found.examples_by_code, found.similarities_by_code),
        answers=class_answers(network.kind(answers), answers.expand(2, -1)),
    )
