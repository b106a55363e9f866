"""Networks of other libraries behind one interface: images or texts in, one tensor of answers out, names unchanged."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.core.framing import Framing
from unweave.models.preprocess import Preprocess
from unweave.store.layout import ImageView


@runtime_checkable
class ReadsText(Protocol):
    """A network with a tokenizer of its own."""

    def tokenize(self, texts: Sequence[str], *, length: int | None = None) -> dict[str, Tensor]:
        """Token ids and mask, each [b, t]: what `forward` takes by name."""
        ...

    def tokens(self, texts: Sequence[str]) -> list[list[str]]:
        """The tokens of each text as they are read: one string for each position."""
        ...


class Adopted(nn.Module):
    """Another module's parts under the names that they have there, with a forward pass of one's own.

    Parameters, buffers and submodules are the other's own tables, not copies: what moves or changes one does so for
    both. What is trained is the one that is called; the inner one's own mode follows `train`.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self._parameters, self._buffers, self._modules = inner._parameters, inner._buffers, inner._modules
        self._non_persistent_buffers_set = inner._non_persistent_buffers_set
        object.__setattr__(self, "_inner", inner)  # past nn.Module, which would list it as a part beside its own parts
        self.train(inner.training)

    @property
    def inner(self) -> nn.Module:
        """The other module."""
        return self.__dict__["_inner"]  # type: ignore[no-any-return]

    def put_first(self, name: str, part: nn.Module) -> None:
        """Add a part before all others."""
        assert name not in self._modules, f"{type(self.inner).__name__} has a part {name!r} of its own"
        others = dict(self._modules)
        self._modules.clear()
        self._modules[name] = part
        self._modules.update(others)

    def train(self, mode: bool = True) -> "Adopted":
        """Set the mode of all parts, and of the inner module."""
        super().train(mode)
        self.inner.training = mode
        return self

    def precision(self) -> torch.dtype:
        """What the inner module computes in."""
        return next((value.dtype for value in self.parameters() if value.is_floating_point()), torch.float32)


class VisionNet(Adopted):
    """A network of images with its own preprocessing: images in [0, 1] of any size to its answers [b, …] in float32.

    Attributes:
        preprocess: its first layer.
        class_names: of the classes that it was trained on; None where nobody named them, empty where it has none.
        framing: how image files are best read for it.
    """

    preprocess: Preprocess

    def __init__(self, inner: nn.Module, preprocess: Preprocess, class_names: Sequence[str] | None = None) -> None:
        super().__init__(inner)
        self.put_first("preprocess", preprocess)
        self.class_names = None if class_names is None else list(class_names)

    @property
    def framing(self) -> Framing | None:
        """How image files are best read for it; None where it takes every size as it is."""
        return self.preprocess.steps.framing()

    def image_view(self, height: int, width: int) -> ImageView:
        """What it looks at of an image of this size, and the size of what its inner network is given."""
        steps = self.preprocess.steps
        return ImageView(steps.seen(height, width), steps.given(height, width))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """Its answers to images in [0, 1]."""
        return one_answer(self.answer(self.preprocess(images).to(self.precision())))

    def answer(self, pixels: Float[Tensor, "b c h w"]) -> Any:
        """What the inner module gives for what it is to see."""
        return self.inner(pixels)


class WholeNet(VisionNet):
    """A masked autoencoder's encoder that is given every patch, in the order in which they lie in the image."""

    def answer(self, pixels: Float[Tensor, "b c h w"]) -> Any:
        """What it makes of all patches; it keeps those of the least noise first."""
        config: Any = self.inner.config
        (tall, wide), (down, across) = _pair(config.image_size), _pair(config.patch_size)
        patches = (tall // down) * (wide // across)
        return self.inner(pixels, noise=torch.arange(patches, device=pixels.device).expand(len(pixels), -1))


class PromptedNet(VisionNet):
    """A network that segments what prompts point at (SAM); its answer is the mean of its image encoder over places."""

    def answer(self, pixels: Float[Tensor, "b c h w"]) -> Any:
        """An embedding [b, d] of the image."""
        hidden: Tensor = self.inner.vision_encoder(pixels)[0]  # type: ignore[operator]
        return hidden.mean((1, 2) if hidden.shape[1] == hidden.shape[2] else (2, 3))  # channels come last in SAM 2


class ComparedNet(VisionNet):
    """A network of images and texts; the answers are how well an image goes with each of a few texts.

    Without texts the answers are its embedding of the image.
    """

    def __init__(
        self,
        inner: nn.Module,
        preprocess: Preprocess,
        texts: Sequence[str] = (),
        read: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(inner, preprocess, class_names=texts)
        self._read = tuple(read or ())
        for name, value in (read or {}).items():
            self.register_buffer(f"texts_{name}", value)

    def answer(self, pixels: Float[Tensor, "b c h w"]) -> Any:
        """Logits [b, texts], or the embedding."""
        if not self._read:
            return self.inner.get_image_features(pixel_values=pixels)  # type: ignore[operator]
        read = {name: getattr(self, f"texts_{name}") for name in self._read}
        return self.inner(pixel_values=pixels, **read).logits_per_image


class TextNet(Adopted):
    """A network of texts with its own tokenizer: token ids and mask to its answers [b, …] in float32.

    The answers of a causal language model are the logits of the token after the text. Texts are filled up at their end.

    Attributes:
        class_names: of the classes that it was trained on; None where nobody named them, empty where it has none.
        max_length: tokens that are read of a text.
    """

    def __init__(
        self, inner: nn.Module, tokenizer: Any, *, max_length: int, class_names: Sequence[str] | None = None
    ) -> None:
        super().__init__(inner)
        if tokenizer.pad_token is None:  # a filled-up place is masked, so it does not matter by what
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        self._tokenizer = tokenizer
        self._masked = "attention_mask" in tokenizer.model_input_names
        self._vocabulary = _hash_vocabulary(tokenizer)
        self.max_length = max_length
        self.class_names = None if class_names is None else list(class_names)

    def tokenize(self, texts: Sequence[str], *, length: int | None = None) -> dict[str, Tensor]:
        """Token ids and mask, each [b, t]: what `forward` takes by name.

        Args:
            texts: any number of them.
            length: t; by default that of the longest text.

        Raises:
            InputError: a text has no token.
        """
        how: dict[str, Any] = {"padding": True} if length is None else {"padding": "max_length"}
        read = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=min(length or self.max_length, self.max_length),
            return_tensors="pt",
            return_attention_mask=True,
            **how,
        )
        empty = (read["attention_mask"].sum(1) == 0).nonzero().flatten().tolist()
        if empty:
            raise InputError(f"the tokenizer makes no token of the text {texts[empty[0]]!r}; leave such texts out")
        return {name: read[name] for name in ("input_ids", "attention_mask")}

    def encode(self, texts: Sequence[str], *, length: int | None = None) -> Int64[Tensor, "b 2 t"]:
        """The same as one tensor of ids and mask, which `forward` takes as well."""
        read = self.tokenize(texts, length=length)
        return torch.stack([read["input_ids"], read["attention_mask"]], 1)

    def tokens(self, texts: Sequence[str]) -> list[list[str]]:
        """The tokens of each text as they are read: one string for each position, as it looks in the text."""
        found = []
        for text in texts:
            ids = self._tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"]
            found.append([self._tokenizer.decode([one], clean_up_tokenization_spaces=False) for one in ids])
        return found

    def vocabulary(self, ids: Sequence[int]) -> list[str]:
        """How tokens look in a text."""
        return [self._tokenizer.decode([one], clean_up_tokenization_spaces=False) for one in ids]

    def forward(
        self, input_ids: Int64[Tensor, "b *parts t"], attention_mask: Int64[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b ..."]:
        """Its answers to token ids [b, t] and their mask, or to both as one tensor [b, 2, t]."""
        if input_ids.ndim == 3:
            input_ids, attention_mask = input_ids.unbind(1)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        output = self.inner(input_ids=input_ids, **({"attention_mask": mask} if self._masked else {}))
        return one_answer(output, mask)

    def extra_repr(self) -> str:
        """How texts become tokens: it belongs to what the network is, and so to its fingerprint."""
        return f"vocabulary={self._vocabulary}, max_length={self.max_length}"


def one_answer(output: Any, mask: Int64[Tensor, "b t"] | None = None) -> Float[Tensor, "b ..."]:
    """The one tensor that a model's output answers each example with, in float32.

    In this order: the tensor itself; `logits`, those of the last token where there are some for each; the embedding
    (`image_embeds`, `text_embeds`, `pooler_output`); the mean of `last_hidden_state` over tokens or places.

    Args:
        output: what a model of transformers (or any other) gives.
        mask: which tokens are real, for texts.

    Raises:
        InputError: there is none of these.
    """
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if isinstance(output, Tensor):
        return output.float()
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        if mask is not None and logits.ndim == 3:
            logits = logits[torch.arange(len(logits), device=logits.device), mask.sum(1) - 1]
        return logits.float()
    for name in ("image_embeds", "text_embeds", "pooler_output"):
        if isinstance(value := getattr(output, name, None), Tensor):
            return value.flatten(1).float()
    hidden = getattr(output, "last_hidden_state", None)
    if not isinstance(hidden, Tensor):
        raise InputError(f"the model gives a {type(output).__name__}, in which there is no answer to an example")
    if hidden.ndim == 4:
        return hidden.mean((2, 3)).float()
    share = torch.ones(hidden.shape[:2], device=hidden.device) if mask is None else mask.float()
    return (hidden.float() * share.unsqueeze(2)).sum(1) / share.sum(1, keepdim=True)


def _pair(size: Any) -> tuple[int, int]:
    return (size[0], size[1]) if isinstance(size, (list, tuple)) else (size, size)


def _hash_vocabulary(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    said = json.loads(backend.to_str()) if backend is not None else {"vocabulary": tokenizer.get_vocab()}
    said.pop("truncation", None)
    said.pop("padding", None)
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=8).hexdigest()
