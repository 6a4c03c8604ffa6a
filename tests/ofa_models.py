"""OFA at tiny sizes: the tensors of fairseq's checkpoints, of its port to transformers, and a whole folder with a tokenizer."""

import json
import re
from pathlib import Path

SHAPE = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
         "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "token_bucket_size": 16, "image_bucket_size": 6, "max_position_embeddings": 78}
CODES, BINS = 4, 1000


def ofa_config(vocabulary, **changes):
    """config.json of the port."""
    return SHAPE | {"model_type": "ofa", "architectures": ["OFAModel"], "vocab_size": vocabulary, "resnet_type": "resnet50", "normformer": True,
                    "attn_scale_factor": 2.0, "scale_embedding": False, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
                    "decoder_start_token_id": 0} | changes


def ofa_tensors(vocabulary, seed=0, scale=0.15):
    """By fairseq's names."""
    import torch

    torch.manual_seed(seed)
    d, heads, ffn, buckets, side, places = 32, 2, 48, 16, 6, 80
    tensors = {}

    def linear(name, out, inner):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.randn(out, inner) * scale, torch.randn(out) * 0.05

    def norm(name, size=d):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = 1 + torch.randn(size) * 0.05, torch.randn(size) * 0.05

    def batch_norm(name, size):
        norm(name, size)
        tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"] = torch.randn(size) * 0.1, 1 + torch.rand(size)
        tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def convolution(name, out, inner, size):
        tensors[f"{name}.weight"] = torch.randn(out, inner, size, size) * (2 / (inner * size * size)) ** 0.5

    def attention(name):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{name}.{part}", d, d)
        tensors[f"{name}.c_attn"] = 1 + torch.randn(heads) * 0.1

    embedding = torch.randn(vocabulary, d) * scale
    for side_name, decoder in (("encoder", False), ("decoder", True)):
        tensors[f"{side_name}.embed_tokens.weight"] = embedding
        tensors[f"{side_name}.embed_positions.weight"] = torch.randn(places, d) * scale
        tensors[f"{side_name}.embed_image_positions.weight"] = torch.randn(side * side + 1, d) * scale
        tensors[f"{side_name}.token_rp_bucket"] = torch.zeros(4, 4, dtype=torch.long)
        for name in ("layernorm_embedding", "pos_ln", "image_pos_ln", "layer_norm"):
            norm(f"{side_name}.{name}")
        for layer in range(2):
            at = f"{side_name}.layers.{layer}"
            attention(f"{at}.self_attn")
            names = ["self_attn_layer_norm", "self_attn_ln" if decoder else "attn_ln", "final_layer_norm"]
            if decoder:
                attention(f"{at}.encoder_attn")
                names += ["encoder_attn_layer_norm", "cross_attn_ln"]
            for name in names:
                norm(f"{at}.{name}")
            norm(f"{at}.ffn_layernorm", ffn)
            linear(f"{at}.fc1", ffn, d)
            linear(f"{at}.fc2", d, ffn)
            tensors[f"{side_name}.token_rel_pos_table_list.{layer}.weight"] = torch.randn(2 * buckets - 1, heads) * scale
            tensors[f"{side_name}.image_rel_pos_table_list.{layer}.weight"] = torch.randn((2 * side - 1) ** 2 + 3, heads) * scale
    for name in ("encoder.pos_q_linear", "encoder.pos_k_linear", "decoder.self_pos_q_linear", "decoder.self_pos_k_linear",
                 "decoder.cross_pos_q_linear", "decoder.cross_pos_k_linear"):
        linear(name, d, d)
    tensors["encoder.type_embedding.weight"] = torch.randn(2, d) * scale
    norm("encoder.patch_layernorm_embedding")
    norm("decoder.code_layernorm_embedding")
    tensors["decoder.output_projection.weight"] = embedding
    images = "encoder.embed_images"
    convolution(f"{images}.conv1", 8, 3, 7)
    batch_norm(f"{images}.bn1", 8)
    inner = 8
    for stage, planes in enumerate((4, 8, 8), 1):
        at = f"{images}.layer{stage}.0"
        for number, (out, before, size) in enumerate(((planes, inner, 1), (planes, planes, 3), (4 * planes, planes, 1)), 1):
            convolution(f"{at}.conv{number}", out, before, size)
            batch_norm(f"{at}.bn{number}", out)
        convolution(f"{at}.downsample.0", 4 * planes, inner, 1)
        batch_norm(f"{at}.downsample.1", 4 * planes)
        inner = 4 * planes
    linear("encoder.image_proj", d, inner)
    return tensors


def ported(name):
    """What the port to transformers calls a tensor of fairseq's."""
    name = name.replace("self_attn_ln", "self_attn_mid_layer_norm").replace("ffn_layernorm", "ffn_layer_norm")
    name = name.replace("cross_attn_ln", "cross_attn_mid_layer_norm").replace("encoder_attn", "cross_attn")
    return re.sub(r"(encoder\.layers\.\d+\.)attn_ln", r"\1self_attn_mid_layer_norm", name)


def write_tokenizer(folder, corpus, size=420):
    """vocab.json and merges.txt as BART's; the number of tokens with OFA's own."""
    from bpe_models import roberta_like

    made = roberta_like(corpus, size)
    model = made["model"]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "OFATokenizer", "num_codes": CODES, "num_bins": BINS}))
    return len(model["vocab"]) + CODES + BINS


def make_ofa(folder, corpus, seed=0):
    """A folder of the port with random weights."""
    from safetensors.torch import save_file

    folder = Path(folder)
    vocabulary = write_tokenizer(folder, corpus)
    tensors = ofa_tensors(vocabulary, seed)
    tied = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
    save_file({ported(name): tensor for name, tensor in tensors.items() if name not in tied}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(ofa_config(vocabulary)))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "OFAImageProcessor", "size": {"height": 32, "width": 32}}))
    return folder
