"""Tiny checkpoints of every family that PEFT's folders are exchanged for, with what reads their inputs, and a short training on them."""

import json
import random
import wave as wave_file

import numpy
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from tiny import make_tokenizer

SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
CLASSES = ["blue", "green", "red"]


def byte_level_tokenizer(folder):
    """A RoBERTa-type tokenizer of single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet, "<mask>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer", "model_max_length": 40}))
    return len(vocabulary)


def configured(family, folder):
    """The configuration of a tiny model, and the files that read its inputs, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if family == "bert":
        return transformers.BertConfig(vocab_size=make_tokenizer(folder), max_position_embeddings=64, **SHAPE)
    if family == "roberta":
        return transformers.RobertaConfig(vocab_size=byte_level_tokenizer(folder), max_position_embeddings=64, type_vocab_size=1, **SHAPE)
    if family == "wav2vec2":
        transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
        return transformers.Wav2Vec2Config(conv_dim=(16, 16, 16), conv_kernel=(10, 3, 3), conv_stride=(5, 2, 2), num_feat_extract_layers=3,
                                           num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, feat_extract_norm="layer",
                                           do_stable_layer_norm=True, classifier_proj_size=12, layerdrop=0.0, mask_time_prob=0.0, **SHAPE)
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    if family == "vit":
        return transformers.ViTConfig(image_size=16, patch_size=4, **SHAPE)
    if family == "swin":
        return transformers.SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[2, 4], window_size=4)
    assert family == "clip"
    text = dict(vocab_size=60, max_position_embeddings=20, bos_token_id=57, eos_token_id=58, **SHAPE)
    return transformers.CLIPConfig(text_config=text, vision_config=dict(image_size=16, patch_size=4, **SHAPE), projection_dim=16)


TASK_MODELS = {
    "bert": transformers.BertForSequenceClassification,
    "roberta": transformers.RobertaForSequenceClassification,
    "vit": transformers.ViTForImageClassification,
    "swin": transformers.SwinForImageClassification,
    "clip": transformers.CLIPForImageClassification,
    "wav2vec2": transformers.Wav2Vec2ForSequenceClassification,
}
BASE_MODELS = {
    "bert": transformers.BertModel,
    "roberta": transformers.RobertaModel,
    "vit": transformers.ViTModel,
    "swin": transformers.SwinModel,
    "clip": transformers.CLIPModel,
    "wav2vec2": transformers.Wav2Vec2Model,
}


def move(model, names=""):
    """Parameters whose names hold one of `names`, away from where they start, so that every part of a model matters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if names == "" or any(part in name for part in names):
                parameter.add_(torch.randn_like(parameter) * 0.15)
    return model.eval()


def make_model(family, folder):
    """A random base checkpoint with tokenizer or image processor."""
    torch.manual_seed(7)
    config = configured(family, folder)
    move(BASE_MODELS[family](config)).save_pretrained(folder)
    return folder


def inputs_for(family):
    torch.manual_seed(11)
    if family in ("bert", "roberta"):
        ids, mask = torch.randint(5, 50, (3, 9)), torch.ones(3, 9, dtype=torch.long)
        mask[1, 4:] = 0
        if family == "roberta":
            ids[mask == 0] = 1
        return {"input_ids": ids, "attention_mask": mask}
    if family == "wav2vec2":
        mask = torch.ones(3, 900, dtype=torch.long)
        mask[1, 500:] = 0
        return {"input_values": torch.randn(3, 900) * mask, "attention_mask": mask}
    return {"pixel_values": torch.randn(3, 3, 16, 16)}


def make_data(family, folder, count=18):
    draw = random.Random(3)
    rows = []
    for index in range(count):
        label = CLASSES[index % 3]
        row = {"id": f"r{index}", "label": label}
        if family in ("bert", "roberta"):
            row["text"] = f"the {draw.choice(['circle', 'shape'])} is {label}"
        elif family == "wav2vec2":
            wave = numpy.sin(numpy.arange(800 + 40 * index) * 0.1 * (1 + index % 3)) * 9000
            with wave_file.open(str(folder / f"{index}.wav"), "wb") as sound:
                sound.setparams((1, 2, 16000, 0, "NONE", ""))
                sound.writeframes(wave.astype("<i2").tobytes())
            row["audio"] = f"{index}.wav"
        else:
            pixels = numpy.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=numpy.uint8)
            pixels[:, :, index % 3] = 255
            Image.fromarray(pixels).save(folder / f"{index}.png")
            row["image"] = f"{index}.png"
        rows.append(row)
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


#: What must stand in a recipe so that transformers has the head.
HEADS = {
    "bert": ['backbone.main_pooling="pooler"'],
    "roberta": ['backbone.main_pooling="first"', 'head.kind="mlp"', 'head.activation="tanh"', "head.hidden=32"],
    "vit": [],
    "swin": [],
    "clip": ['backbone.main_pooling="patches"'],
    "wav2vec2": ['backbone.main_pooling="mean"'],
}


def train(succeeds, tmp_path, family, method, *assignments):
    """A run of a few steps with a rate at which everything moves. Returns its folder; the checkpoint is tmp_path/model."""
    model = make_model(family, tmp_path / "model")
    data = make_data(family, tmp_path)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[backbone]\nmain = "{model}"\n[expert]\nmethod = "{method}"\n[data]\ntrain = "{data}"\n'
                      "[train]\nsteps = 4\nbatch = 6\nlr = 0.05\nthreads = 1\n")
    succeeds("train", recipe, *HEADS[family], *assignments, "--out", tmp_path / "run", "--threads", "1")
    return tmp_path / "run"


def tokenized(model, texts):
    """input_ids and attention_mask of the texts, padded."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"))
    encoded = tokenizer.encode_batch(texts)
    return {"input_ids": torch.tensor([one.ids for one in encoded]), "attention_mask": torch.tensor([one.attention_mask for one in encoded])}


def forward(succeeds, tmp_path, folder, inputs, *more):
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, tmp_path / "x.safetensors")
    succeeds("forward", folder, "--inputs", tmp_path / "x.safetensors", "--out", tmp_path / "y.safetensors", *more)
    return load_file(tmp_path / "y.safetensors")


def close(ours, theirs, tolerance=1e-4):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max().item() <= tolerance
