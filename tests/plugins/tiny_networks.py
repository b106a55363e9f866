"""Small networks of transformers with random weights, written as `save_pretrained` writes the real ones."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_STEPS = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, **IMAGENET}
_SQUARE = {"do_resize": True, "size": {"height": 32, "width": 32}, "resample": 2, **_STEPS}
_CROPPED = {
    "do_resize": True,
    "size": {"shortest_edge": 40},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    **_STEPS,
}
_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_VISION = {**_SMALL, "image_size": 32, "patch_size": 8}
_SENTENCE = "a photo of the cat dog sat on mat good bad film was very and not it is red blue bird"
WORDS = _SENTENCE.split()


def _vit() -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**_VISION, num_labels=3))


def _dinov2(registers: int = 0) -> Any:
    shared = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    if registers:
        made = transformers.Dinov2WithRegistersConfig(**shared, mlp_ratio=2, num_register_tokens=registers)
        return transformers.Dinov2WithRegistersModel(made)
    return transformers.Dinov2Model(transformers.Dinov2Config(**shared, mlp_ratio=2))


def _clip() -> Any:
    text = {**_SMALL, "vocab_size": 40, "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=8))


def _siglip() -> Any:
    text = {**_SMALL, "vocab_size": 40, "max_position_embeddings": 16, "projection_size": 16}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=_VISION))


def _resnet() -> Any:
    made = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4
    )
    return transformers.ResNetForImageClassification(made)


def _convnext() -> Any:
    made = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=4)
    return transformers.ConvNextForImageClassification(made)


def _swin() -> Any:
    made = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, num_labels=4
    )
    return transformers.SwinForImageClassification(made)


def _beit() -> Any:
    return transformers.BeitForImageClassification(transformers.BeitConfig(**_VISION, num_labels=4))


def _data2vec() -> Any:
    return transformers.Data2VecVisionForImageClassification(transformers.Data2VecVisionConfig(**_VISION, num_labels=4))


def _deit() -> Any:
    return transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**_VISION, num_labels=4))


def _dinov3() -> Any:
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**_VISION, num_register_tokens=4))


def _hiera() -> Any:
    made = transformers.HieraConfig(
        image_size=[32, 32],
        embed_dim=8,
        depths=[1, 1, 1],
        num_heads=[1, 2, 2],
        masked_unit_size=[4, 4],
        num_query_pool=2,
        num_labels=4,
    )
    return transformers.HieraForImageClassification(made)


def _mobilenet() -> Any:
    made = transformers.MobileNetV2Config(image_size=32, depth_multiplier=0.25, output_stride=8, num_labels=4)
    return transformers.MobileNetV2ForImageClassification(made)


def _pvt() -> Any:
    made = transformers.PvtConfig(
        image_size=32,
        depths=[1, 1],
        num_encoder_blocks=2,
        hidden_sizes=[8, 16],
        patch_sizes=[4, 2],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        sequence_reduction_ratios=[2, 1],
        mlp_ratios=[2, 2],
        num_labels=4,
    )
    return transformers.PvtForImageClassification(made)


def _sam() -> Any:
    vision = {
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "output_channels": 8,
        "window_size": 4,
    }
    prompt = {"hidden_size": 8, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
    mask = {"hidden_size": 8, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 8}
    made = transformers.SamConfig(
        vision_config={**vision, "mlp_dim": 32, "image_size": 64, "patch_size": 8, "global_attn_indexes": []},
        prompt_encoder_config=prompt,
        mask_decoder_config=mask,
    )
    return transformers.SamModel(made)


def _bert() -> Any:
    made = transformers.BertConfig(**_SMALL, vocab_size=40, max_position_embeddings=16, num_labels=2)
    return transformers.BertForSequenceClassification(made)


def _sentences() -> Any:
    return transformers.BertModel(transformers.BertConfig(**_SMALL, vocab_size=40, max_position_embeddings=16))


def _gpt2() -> Any:
    made = transformers.GPT2Config(
        vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=3, eos_token_id=3
    )
    return transformers.GPT2LMHeadModel(made)


def _t5() -> Any:
    made = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(made)


NETWORKS: dict[str, tuple[Any, dict[str, Any] | None, str | None]] = {
    "resnet": (
        _resnet,
        {
            "image_processor_type": "ConvNextImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": 28},
            "crop_pct": 0.875,
            "resample": 3,
            **_STEPS,
        },
        None,
    ),
    "vit": (_vit, {"image_processor_type": "ViTImageProcessor", **_SQUARE}, None),
    "dinov2": (_dinov2, {"image_processor_type": "BitImageProcessor", **_CROPPED}, None),
    "dinov2-registers": (lambda: _dinov2(4), {"image_processor_type": "BitImageProcessor", **_CROPPED}, None),
    "clip": (_clip, {"image_processor_type": "CLIPImageProcessor", **_CROPPED}, "bert"),
    "siglip": (_siglip, {"image_processor_type": "SiglipImageProcessor", **_SQUARE}, "bert"),
    "convnext": (
        _convnext,
        {
            "image_processor_type": "ConvNextImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": 28},
            "crop_pct": 0.875,
            "resample": 3,
            **_STEPS,
        },
        None,
    ),
    "swin": (_swin, {"image_processor_type": "ViTImageProcessor", **_SQUARE}, None),
    "data2vec": (_data2vec, {"image_processor_type": "BeitImageProcessor", **_SQUARE}, None),
    "deit": (_deit, {"image_processor_type": "DeiTImageProcessor", **_CROPPED}, None),
    "dinov3": (_dinov3, {"image_processor_type": "ViTImageProcessor", **_SQUARE}, None),
    "hiera": (_hiera, {"image_processor_type": "BitImageProcessor", **_CROPPED}, None),
    "ijepa": (
        lambda: transformers.IJepaModel(transformers.IJepaConfig(**_VISION)),
        {"image_processor_type": "ViTImageProcessor", **_SQUARE},
        None,
    ),
    "mae": (
        lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig(**_VISION)),
        {"image_processor_type": "ViTImageProcessor", **_SQUARE},
        None,
    ),
    "mobilenet": (_mobilenet, {"image_processor_type": "MobileNetV2ImageProcessor", **_CROPPED}, None),
    "pvt": (_pvt, {"image_processor_type": "PvtImageProcessor", **_SQUARE}, None),
    "sam": (
        _sam,
        {
            "image_processor_type": "SamImageProcessor",
            **_SQUARE,
            "size": {"longest_edge": 64},
            "do_pad": True,
            "pad_size": {"height": 64, "width": 64},
            "mask_size": {"longest_edge": 16},
            "mask_pad_size": {"height": 16, "width": 16},
        },
        None,
    ),
    "beit": (_beit, {"image_processor_type": "BeitImageProcessor", **_SQUARE}, None),
    "bert": (_bert, None, "bert"),
    "sentences": (_sentences, None, "bert"),
    "gpt2": (_gpt2, None, "gpt2"),
    "t5": (_t5, None, "bert"),
}
"""For each: what makes it, the settings of its image processor, and the kind of its tokenizer."""


def write_network(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write one of the networks with its processor or tokenizer, as a real one is distributed."""
    make, settings, tokens = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make().save_pretrained(folder)
    if settings is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    if tokens is not None:
        tokenizer(tokens).save_pretrained(folder)
    return folder


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A fast tokenizer of a few words: with [CLS] and [SEP] as BERT has them, or with nothing around, as GPT-2."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *dict.fromkeys(WORDS)])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "gpt2":
        return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", eos_token="[SEP]", model_max_length=16)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        model_max_length=16,
        model_input_names=["input_ids", "attention_mask"],
    )
