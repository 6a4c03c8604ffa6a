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
    made["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    (Path(folder) / "tokenizer.json").write_text(json.dumps(made))
    (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 128}))
    return len(made["model"]["vocab"])


def write_processor(folder, side, **changes):
    config = {"image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": side}, "do_center_crop": True,
              "crop_size": {"height": side, "width": side}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    (Path(folder) / "preprocessor_config.json").write_text(json.dumps(config | CLIP_NORM | changes))


def write_blip_processor(folder, side):
    write_processor(folder, side, image_processor_type="BlipImageProcessor", size={"height": side, "width": side}, do_center_crop=None,
                    crop_size=None)


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
    write_blip_processor(folder, side)
    return Path(folder)


def make_instructblip(folder, seed=0, side=28, scale=0.12):
    from transformers import Blip2VisionConfig, InstructBlipConfig, InstructBlipForConditionalGeneration, InstructBlipQFormerConfig, LlamaConfig

    words = write_tokenizer(folder)
    own = Path(folder) / "qformer_tokenizer"
    own.mkdir()
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz?.", *("##" + c for c in "abcdefghijklmnopqrstuvwxyz")]
    (own / "vocab.txt").write_text("\n".join(letters) + "\n")
    (own / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 64, "tokenizer_class": "BertTokenizer"}))
    vision = Blip2VisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=side, patch_size=7)
    queries = InstructBlipQFormerConfig(vocab_size=len(letters), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
                                        encoder_hidden_size=32, cross_attention_frequency=2, max_position_embeddings=64)
    llama = LlamaConfig(vocab_size=words, hidden_size=40, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
                        bos_token_id=0, eos_token_id=2, pad_token_id=1, max_position_embeddings=256)
    config = InstructBlipConfig(vision_config=vision.to_dict(), qformer_config=queries.to_dict(), text_config=llama.to_dict(), num_query_tokens=5,
                                image_token_index=4)
    model = InstructBlipForConditionalGeneration(config).eval()
    _randomise(model, seed, scale)
    model.save_pretrained(folder)
    write_blip_processor(folder, side)
    return Path(folder)


def make_causal(folder, family, seed=0, scale=0.12):
    """A LLaMA or an OPT alone."""
    import transformers

    words = write_tokenizer(folder)
    shape = {"LLaMA": dict(intermediate_size=64, num_key_value_heads=2, bos_token_id=0), "OPT": dict(ffn_dim=64, word_embed_proj_dim=32, bos_token_id=2)}[family]
    name = family.replace("LLaMA", "Llama")
    config = getattr(transformers, name + "Config")(vocab_size=words, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, eos_token_id=2,
                                                    pad_token_id=1, max_position_embeddings=128, **shape)
    model = getattr(transformers, name + "ForCausalLM")(config).eval()
    _randomise(model, seed, scale)
    model.save_pretrained(folder)
    return Path(folder)


def make_t5(folder, corpus, seed=0, scale=0.12):
    """A T5 with a tokenizer of whole words, whose texts end with </s>."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    words = sorted({word for text in corpus for word in text.split()})
    vocab = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *("\u2581" + word for word in words), "\u2581"])}
    added = [{"id": i, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for i, word in enumerate(["<pad>", "</s>", "<unk>"])]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}},
                                    {"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                           "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": 2, "vocab": [[word, 0.0 if i < 3 else -2.0] for word, i in vocab.items()], "byte_fallback": False},
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "tokenizer.json").write_text(json.dumps(tokenizer))
    (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 128}))
    torch.manual_seed(seed)
    config = T5Config(vocab_size=len(vocab), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=4,
                      feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(config).eval()
    _randomise(model, seed, scale)
    model.save_pretrained(folder)
    return Path(folder)
