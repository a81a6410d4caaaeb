"""Small speech models with random weights, in the layout in which transformers saves them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel

KINDS: dict[str, dict[str, Any]] = {
    "wav2vec2-group": {"model_type": "wav2vec2"},  # as wav2vec2-base
    "wav2vec2-layer": {"model_type": "wav2vec2", "feat_extract_norm": "layer"},  # as -large-lv60
    "hubert-group": {"model_type": "hubert"},
    "hubert-layer": {"model_type": "hubert", "feat_extract_norm": "layer"},
    "hubert-batch-norm": {
        "model_type": "hubert",
        "feat_extract_norm": "layer",
        "conv_pos_batch_norm": True,
    },
    "wavlm-group": {"model_type": "wavlm"},
    "wavlm-layer": {"model_type": "wavlm", "feat_extract_norm": "layer"},
    "unispeech": {"model_type": "unispeech", "feat_extract_norm": "layer"},
    "unispeech-sat": {"model_type": "unispeech-sat", "feat_extract_norm": "layer"},
    "data2vec-audio": {"model_type": "data2vec-audio"},
    "wav2vec2-conformer": {"model_type": "wav2vec2-conformer", "feat_extract_norm": "layer"},
    "whisper": {"model_type": "whisper"},
}
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "conv_bias": True,
    "num_conv_pos_embeddings": 5,
    "num_conv_pos_embedding_groups": 2,
    "conv_depthwise_kernel_size": 5,
}
WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 48,
    "max_source_positions": 100,  # 2 s
    "vocab_size": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def save_model(folder: Path, kind: str, do_normalize: bool = True, **settings: Any) -> Path:
    """Write a model of two layers with its feature extractor.

    Args:
        folder: Folder that is made.
        kind: A key of KINDS.
        do_normalize: Of the feature extractor.
        settings: Of its config, in the place of the small ones.
    """
    torch.manual_seed(0)
    is_whisper = kind == "whisper"
    stable = {"do_stable_layer_norm": KINDS[kind].get("feat_extract_norm") == "layer"}
    small = WHISPER if is_whisper else {**SMALL, **stable}
    config = AutoConfig.for_model(**{**KINDS[kind], **small, **settings})
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1 or "layers" in name:  # small weights would hide what is mixed up
                value += 0.1 * torch.randn_like(value)
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value += 0.5
    model.save_pretrained(folder)
    extractor: Any = (
        transformers.WhisperFeatureExtractor(chunk_length=2)
        if is_whisper
        else transformers.Wav2Vec2FeatureExtractor(do_normalize=do_normalize)
    )
    extractor.save_pretrained(folder)
    return folder
