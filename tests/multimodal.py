"""Tiny random multimodal language models in HuggingFace's layout, with tokenizers and preprocessors: made at test time."""

import json
from pathlib import Path

from bpe_models import P, trained

WORDS = [
    "This is a photo of a red green blue picture.",
    "this is a photo of a thing",
    "USER: what colour is it? ASSISTANT: red\n",
    "Question: Is this red? Answer: yes no",
    "How many objects are there in this image? Answer with a single number. 1 2 3 4 5 6 7 8 9",
    "<Img></Img>###Human: ###Assistant:",
]
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<image>"]
CLIP_NORM = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


def write_tokenizer(folder, size=400):
    made = trained(WORDS * 20, SPECIALS, size, pre_tokenizer=P.ByteLevel(add_prefix_space=True))
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "tokenizer.json").write_text(json.dumps(made))
    (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 128}))
    return len(made["model"]["vocab"])


def write_processor(folder, side, **changes):
    config = {"image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": side}, "do_center_crop": True,
              "crop_size": {"height": side, "width": side}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    (Path(folder) / "preprocessor_config.json").write_text(json.dumps(config | CLIP_NORM | changes))


def _randomise(model, seed, scale):
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, scale)


def make_llava(folder, seed=0, side=28, width=32, scale=0.12):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    words = write_tokenizer(folder)
    vision = CLIPVisionConfig(hidden_size=width, num_hidden_layers=3, num_attention_heads=4, intermediate_size=2 * width, image_size=side,
                              patch_size=7, projection_dim=16)
    llama = LlamaConfig(vocab_size=words, hidden_size=40, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                        bos_token_id=0, eos_token_id=2, pad_token_id=1, max_position_embeddings=256)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=llama, image_token_index=4)).eval()
    _randomise(model, seed, scale)
    model.save_pretrained(folder)
    write_processor(folder, side)
    return Path(folder)


def make_blip2(folder, seed=0, side=28, language="opt", scale=0.12):
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, Blip2VisionConfig, OPTConfig, T5Config

    words = write_tokenizer(folder)
    vision = Blip2VisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=side, patch_size=7)
    queries = Blip2QFormerConfig(vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
                                 encoder_hidden_size=32, cross_attention_frequency=2, max_position_embeddings=32)
    if language == "opt":
        text = OPTConfig(vocab_size=words, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
                         max_position_embeddings=128, word_embed_proj_dim=32, bos_token_id=2, eos_token_id=2, pad_token_id=1)
    else:
        text = T5Config(vocab_size=words, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=4,
                        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=1, eos_token_id=2, pad_token_id=1)
    config = Blip2Config(vision_config=vision.to_dict(), qformer_config=queries.to_dict(), text_config=text.to_dict(), num_query_tokens=5,
                         image_token_index=4)
    model = Blip2ForConditionalGeneration(config).eval()
    _randomise(model, seed, scale)
    model.save_pretrained(folder)
    write_processor(folder, side, image_processor_type="BlipImageProcessor")
    return Path(folder)
