"""Networks of transformers, from a local folder or from the hub, with their own preprocessing or tokenizer."""

import contextlib
import dataclasses
import inspect
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from unweave.core.errors import InputError
from unweave.core.framing import Framing
from unweave.core.optional import needs
from unweave.core.reachable import answers, switched_off
from unweave.core.registry import register
from unweave.models.adopted import ComparedNet, PromptedNet, TextNet, VisionNet, WholeNet
from unweave.models.base import ModelConfig
from unweave.models.preprocess import Preprocess, Steps, check_against, settings_of, steps_of

_LOG = logging.getLogger(__name__)
_WHAT = "the model 'pretrained'"
_TEXT_LENGTH = 512
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_POOLER = "pooler."
_HEADS = {
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES": "AutoModelForImageClassification",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "AutoModelForSequenceClassification",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": "AutoModelForCausalLM",
}
"""Tables of the networks whose head says something about each example, and what builds them."""


@register("pretrained")
@dataclass(frozen=True, kw_only=True)
class Pretrained(ModelConfig):
    """A network of transformers, images or texts, from a folder or the hub: its own preprocessing, its own names.

    Images: ResNet, ViT, DINOv2 and DINOv3, CLIP, SigLIP, ConvNeXt, Swin, BEiT and every other network that takes
    `pixel_values`. They are given in [0, 1] in any size; what its image processor does (resize, crop, normalise) is its
    first layer, `preprocess`, and is held against the processor itself when the network is built.

    Texts: BERT, sentence encoders, CLIP's text side, GPT-2 and every other network that takes `input_ids`; of an
    encoder-decoder, the encoder. Its own tokenizer reads them; places that only fill up a batch make no rows.

    A classifier's answers are its logits, a causal language model's the logits of the token after the text; other
    heads are left out, and the answer is the network's embedding. Code that a repository brings is never run.
    """

    name: str
    "a folder that save_pretrained wrote, or ORG/NAME on the hub"
    revision: str | None = None
    "branch, tag or commit on the hub"
    weights: Literal["pretrained", "random"] = "pretrained"
    "those of the folder, or a random start of the same network"
    head: Literal["auto", "none"] = "auto"
    "keep a head that answers about each example (classifier, next token), or leave every head out"
    part: Literal["auto", "image", "text"] = "auto"
    "of a network of images and texts, which of them it is given; auto: images"
    texts: tuple[str, ...] = ()
    "CLIP and its like: texts that each image is compared with; the answers are their logits, a class each"
    preprocessing: Literal["own", "none"] = "own"
    "its own image processor, or images as they are"
    max_length: int | None = None
    "tokens read of a text; by default as many as it takes, but 512 at most"
    dtype: Literal["float32", "bfloat16"] = "float32"
    "precision that it computes in"

    reads_text = True

    def build(self, shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Module:
        """The network with its weights; shape and classes do not matter to it.

        Raises:
            InputError: transformers is not installed, the files are not there, the weights do not fit or are no
                whole network, or the network takes neither images nor texts.
        """
        library = needs("transformers", extra="transformers", what=_WHAT)
        with _quiet(library), self._explained():
            place = self._place(library)
            config = self._config(library, place)
            inner = self._network(library, config, place, generator).to(getattr(torch, self.dtype)).eval()
            takes = _takes(inner)
            if not takes:
                raise InputError(f"{type(inner).__name__} takes neither pixel_values nor input_ids; use --model custom")
            text = self.part == "text" or (self.part == "auto" and "image" not in takes)
            if ("text" if text else "image") not in takes:
                raise InputError(f"{type(inner).__name__} takes no {self.part}s; leave --model.part out")
            return self._text(library, inner, config, place) if text else self._images(library, inner, place, takes)

    def framing(self) -> Framing | None:
        """How image files are best read for it; None for texts."""
        library = needs("transformers", extra="transformers", what=_WHAT)
        with _quiet(library), self._explained():
            place = self._place(library)
            self._config(library, place)
            if self.preprocessing == "none" or not self._has_processor(place):
                return None
            return self._steps(library, place)[0].framing()

    def located(self) -> "Pretrained":
        """With the folder in full, where it is one."""
        folder = Path(self.name).expanduser()
        return dataclasses.replace(self, name=str(folder.resolve())) if folder.is_dir() else self

    def untrained(self) -> "Pretrained":
        """The same network with a random start."""
        return dataclasses.replace(self, weights="random")

    def _place(self, library: Any) -> str:
        """The folder or name, once it is known that waiting for the hub is worth while."""
        folder = Path(self.name).expanduser()
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise InputError(f"{folder} holds no config.json: give a folder that save_pretrained wrote")
            return str(folder)
        if self.name.count("/") > 1 or self.name.startswith((".", "~")):
            raise InputError(f"there is no folder {folder}; give one of save_pretrained, or ORG/NAME on the hub")
        hub = needs("huggingface_hub", extra="transformers", what=_WHAT)
        cached = isinstance(hub.try_to_load_from_cache(self.name, "config.json", revision=self.revision), str)
        if not cached and (switched_off() or not answers(hub.hf_hub_url(self.name, "config.json"))):
            why = "is switched off (HF_HUB_OFFLINE)" if switched_off() else "does not answer, or has no such network"
            raise InputError(
                f"there is no folder {self.name!r}, and the hub {why}. Where there is a network, run `hf download "
                f"{self.name} --local-dir DIR`, copy DIR here and give --model.name DIR"
            )
        return self.name

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # foreign files, and the code that reads them, may fail in any way
            said = " ".join(str(error).split())
            cause = _root(error)
            if str(cause) not in str(error):  # transformers hides what one of its modules lacks
                said = f"{said} ({' '.join(f'{type(cause).__name__}: {cause}'.split())[:200]})"
            if "trust_remote_code" in said:
                said = "it needs code of its own repository, which is not run; build it by --model custom instead"
            what = f"the network {self.name} cannot be loaded ({type(error).__name__})"
            raise InputError(f"{what}: {said[:700]}") from error

    def _config(self, library: Any, place: str) -> Any:
        said, _ = library.PretrainedConfig.get_config_dict(place, revision=self.revision)
        if said.get("model_type", "timm_wrapper") == "timm_wrapper" and "pretrained_cfg" in said:
            name = f"local-dir:{place}" if Path(place).is_dir() else f"hf-hub:{place}"
            raise InputError(f"{self.name} is a network of timm: --model timm --model.name {name}")
        return library.AutoConfig.from_pretrained(place, revision=self.revision)

    def _network(self, library: Any, config: Any, place: str, generator: torch.Generator) -> nn.Module:
        auto = getattr(library, self._auto_class(library, config))
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator.get_state())  # transformers draws a start from torch's own generator
            if self.weights == "random":
                made: nn.Module = auto.from_config(config)
            else:
                made, found = auto.from_pretrained(
                    place, revision=self.revision, config=config, dtype=torch.float32, output_loading_info=True
                )
                self._check_whole(found)
        if getattr(config, "is_encoder_decoder", False):
            made = made.get_encoder()  # type: ignore[operator]
        return made

    def _auto_class(self, library: Any, config: Any) -> str:
        name = (getattr(config, "architectures", None) or [""])[0]
        if self.head == "auto":
            for table, auto in _HEADS.items():
                members = getattr(library.models.auto.modeling_auto, table).values()
                if any(name == member or (not isinstance(member, str) and name in member) for member in members):
                    return auto
        return "AutoModel"

    def _check_whole(self, found: Any) -> None:
        missing, wrong = sorted(found["missing_keys"]), sorted(map(str, found.get("mismatched_keys", ())))
        poolers = [name for name in missing if _POOLER in name]
        rest = [name for name in missing if name not in poolers]
        if rest or wrong:
            raise InputError(
                f"the weights of {self.name} are not those of the whole network: {len(rest)} tensors are missing, "
                f"{len(wrong)} have another shape ({', '.join([*rest, *wrong][:4])} ...); --model.head none leaves "
                "heads out, --model.weights random starts anew"
            )
        if poolers:  # a language model's checkpoint often lacks it; it is behind all layers that one would capture
            _LOG.warning("%s brings no weights for %s: they have a random start", self.name, ", ".join(poolers))

    def _images(self, library: Any, inner: nn.Module, place: str, takes: set[str]) -> VisionNet:
        config: Any = inner.config
        inside = getattr(config, "vision_config", config)
        channels = int(getattr(inside, "num_channels", 3) or 3)
        preprocess = self._preprocess(library, place, channels)
        if "text" not in takes:
            return _vision_net(inner)(inner, preprocess, [] if self.head == "none" else _class_names(config))
        if not hasattr(inner, "get_image_features"):
            raise InputError(f"{type(inner).__name__} mixes images and texts in one pass; use --model custom")
        if not self.texts:
            return ComparedNet(inner, preprocess)
        reads = library.AutoTokenizer.from_pretrained(place, revision=self.revision)
        full = "siglip" in config.model_type  # trained on texts that were filled up, without a mask
        read = reads(list(self.texts), padding="max_length" if full else True, truncation=True, return_tensors="pt")
        return ComparedNet(inner, preprocess, self.texts, {name: read[name] for name in reads.model_input_names})

    def _preprocess(self, library: Any, place: str, channels: int) -> Preprocess:
        if self.preprocessing == "none":
            return Preprocess(Steps(), channels)
        if not self._has_processor(place):
            raise InputError(
                f"{self.name} has no {_PROCESSOR_FILES[0]}, which says how images become its input: get the file that "
                "belongs to the network, or say --model.preprocessing none to give it images in [0, 1] as they are"
            )
        steps, processor = self._steps(library, place)
        module = Preprocess(steps, channels)
        if isinstance(processor, str):
            _LOG.warning("transformers has no %s here: its settings are taken without a check against it", processor)
        else:
            check_against(module, processor)
        return module

    def _has_processor(self, place: str) -> bool:
        return not Path(place).is_dir() or any((Path(place) / name).is_file() for name in _PROCESSOR_FILES)

    def _steps(self, library: Any, place: str) -> tuple[Steps, Any]:
        """The steps of its image processor, and the processor; only its name where transformers has none of that name.

        Some processors exist for torchvision only; their settings can be read without it.
        """
        try:
            processor = library.AutoImageProcessor.from_pretrained(place, revision=self.revision, **_pillow(library))
        except (ImportError, ValueError) as error:
            settings, _ = library.image_processing_utils.ImageProcessingMixin.get_image_processor_dict(
                place, revision=self.revision
            )
            name = str(settings.get("image_processor_type", ""))
            if not name:
                raise
            try:
                return steps_of(settings, name), name
            except InputError as unread:
                raise InputError(
                    f"transformers has no {name} here ({type(error).__name__}), and {unread}; --model.preprocessing "
                    "none gives the network images in [0, 1] as they are, --model custom takes code of yours"
                ) from error
        return steps_of(settings_of(processor), type(processor).__name__), processor

    def _text(self, library: Any, inner: nn.Module, config: Any, place: str) -> TextNet:
        tokenizer = library.AutoTokenizer.from_pretrained(place, revision=self.revision)
        inside = getattr(config, "text_config", config)
        room = getattr(inside, "max_position_embeddings", None) or getattr(inside, "n_positions", None) or _TEXT_LENGTH
        if getattr(inside, "model_type", "") in _OFFSET_POSITIONS:
            room -= _OFFSET_POSITIONS[inside.model_type]
        room = min(int(tokenizer.model_max_length), int(room))
        if self.max_length is not None and not 1 <= self.max_length <= room:
            raise InputError(f"max_length is {self.max_length}: the network {self.name} reads 1 to {room} tokens")
        if len(self.texts):
            raise InputError("texts are what images are compared with; the network is given texts itself")
        net = TextNet(
            _TextSide(inner) if hasattr(inner, "get_text_features") else inner,
            tokenizer,
            max_length=self.max_length or min(room, _TEXT_LENGTH),
            class_names=[] if self.head == "none" else _class_names(config),
        )
        if getattr(config, "pad_token_id", 0) is None:  # a classifier finds a text's last token by it
            config.pad_token_id = tokenizer.pad_token_id
        return net


# Positions of these are counted from the padding's id on, so that fewer tokens fit than the table is long.
_OFFSET_POSITIONS = {"roberta": 2, "xlm-roberta": 2, "camembert": 2, "mpnet": 2, "longformer": 2, "xlm-roberta-xl": 2}


class _TextSide(nn.Module):
    """The text side of a network of images and texts, under the names of the whole."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self._parameters, self._buffers, self._modules = inner._parameters, inner._buffers, inner._modules
        object.__setattr__(self, "_whole", inner)

    def forward(self, **read: Any) -> Any:
        return self.__dict__["_whole"].get_text_features(**read)


def _root(error: BaseException) -> BaseException:
    """What an error was first caused by."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _takes(inner: nn.Module) -> set[str]:
    known = inspect.signature(inner.forward).parameters
    return {what for what, name in (("image", "pixel_values"), ("text", "input_ids")) if name in known}


def _vision_net(inner: nn.Module) -> type[VisionNet]:
    config: Any = inner.config
    if hasattr(inner, "vision_encoder") and hasattr(inner, "mask_decoder"):
        return PromptedNet
    if hasattr(config, "mask_ratio") and "noise" in inspect.signature(inner.forward).parameters:
        config.mask_ratio = 0.0
        return WholeNet
    return VisionNet


def _class_names(config: Any) -> list[str] | None:
    """Names of the classes; None where they are LABEL_0 and so on, none at all of networks without a classifier."""
    names = getattr(config, "id2label", None)
    classifies = any("Classification" in name for name in getattr(config, "architectures", None) or [])
    if not classifies:
        return []
    if not names:
        return None
    named = [str(names[key]) for key in sorted(names, key=int)]
    return None if named == [f"LABEL_{number}" for number in range(len(named))] else named


def _pillow(library: Any) -> dict[str, Any]:
    """What asks for the processor that works without torchvision; before version 5 that was called slow."""
    return {"backend": "pil"} if int(library.__version__.split(".")[0]) >= 5 else {"use_fast": False}


@contextlib.contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """No bars and no notes of transformers inside the block: what matters is said by the caller."""
    log = library.utils.logging
    before, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(before)
        if bars:
            log.enable_progress_bar()
