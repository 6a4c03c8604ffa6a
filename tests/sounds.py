"""WAV files of made-up sounds, the same every time, and tiny random Wav2Vec2 checkpoints."""

import struct

import numpy as np


def noise(seconds, rate=16000, seed=0):
    """float32 samples that are multiples of 1/32768, so that a 16-bit file holds them exactly."""
    draw = np.random.default_rng(seed)
    count = int(seconds * rate)
    wave = 0.2 * draw.standard_normal(count) * (0.2 + np.abs(np.sin(np.arange(count) / (0.13 * rate))))
    return (np.clip(np.round(wave * 32768), -32768, 32767) / 32768).astype(np.float32)


def tone(hertz, seconds, rate=16000, seed=0):
    """A tone with some noise and a phase of its own."""
    draw = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    wave = 0.4 * np.sin(2 * np.pi * (hertz * time + draw.random())) + 0.02 * draw.standard_normal(len(time))
    return (np.round(wave * 32768) / 32768).astype(np.float32)


def write_wav(path, samples, rate=16000):
    """16 bits; `samples` [count] or [count, channels]."""
    samples = np.asarray(samples)
    data = np.round(np.clip(samples, -1, 32767 / 32768) * 32768).astype("<i2").tobytes()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    header = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(header) + 8 + len(data)) + header + b"data" + struct.pack("<I", len(data)) + data)
    return path


TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16, 16, 24],
    "conv_stride": [5, 4, 2],
    "conv_kernel": [10, 8, 3],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "initializer_range": 0.1,
    "vocab_size": 12,
    "classifier_proj_size": 8,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
}


def make_wav2vec2(folder, seed=0, kind="Wav2Vec2Model", rate=16000, **changes):
    """A random checkpoint with its feature extractor; `changes` go to its Wav2Vec2Config. Layer-norm models get an attention mask, as
    published ones do. Returns the model."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.Wav2Vec2Config(**(TINY | changes))
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # What starts as a constant would hide a mistake.
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=rate, return_attention_mask=config.feat_extract_norm == "layer").save_pretrained(folder)
    return model
