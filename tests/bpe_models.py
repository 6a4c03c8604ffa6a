"""Byte-pair tokenizers such as RoBERTa's, GPT-2's and CLIP's, trained on the spot: tokenizer.json as a dictionary."""

import json

from tokenizers import Regex, Tokenizer, models, normalizers, trainers
from tokenizers import pre_tokenizers as P

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
MARKED_CLIP = r"<\|startoftext\|>|<\|endoftext\|>|" + CLIP
ROBERTA_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
CLIP_SPECIALS = ["<|startoftext|>", "<|endoftext|>"]


def clip_split(expression=MARKED_CLIP, **options):
    return P.Split(Regex(expression), behavior="removed", invert=True, **options)


def clip_normalizer():
    return normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])


def trained(corpus, specials, size, normalizer=None, pre_tokenizer=None, suffix=None, unknown=None):
    options = {key: value for key, value in (("end_of_word_suffix", suffix), ("unk_token", unknown)) if value is not None}
    tokenizer = Tokenizer(models.BPE(**options))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    more = {} if suffix is None else {"end_of_word_suffix": suffix}
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=P.ByteLevel.alphabet(), show_progress=False, **more
    )
    tokenizer.train_from_iterator(corpus, trainer)
    made = json.loads(tokenizer.to_str())
    # The trainer numbers letters in an order that differs from run to run; random embeddings would then differ with it.
    others = sorted(set(made["model"]["vocab"]) - set(specials))
    made["model"]["vocab"] = {token: number for number, token in enumerate([*specials, *others])}
    return made


def roberta_like(corpus, size=8000):
    made = trained(corpus, ROBERTA_SPECIALS, size, pre_tokenizer=P.ByteLevel(add_prefix_space=False))
    made["post_processor"] = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": False}
    made["added_tokens"][4]["lstrip"] = True  # as in the published file
    return made


def clip_like(corpus, size=8000):
    """With every byte also at the end of a word, as in the published vocabulary."""
    made = trained(
        corpus,
        CLIP_SPECIALS,
        size,
        clip_normalizer(),
        P.Sequence([clip_split(), P.ByteLevel(add_prefix_space=False)]),
        suffix="</w>",
        unknown="<|endoftext|>",
    )
    vocabulary = made["model"]["vocab"]
    for letter in sorted(P.ByteLevel.alphabet()):
        vocabulary.setdefault(letter + "</w>", len(vocabulary))
    made["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": ["<|endoftext|>", 1],
        "cls": ["<|startoftext|>", 0],
        "trim_offsets": False,
        "add_prefix_space": False,
    }
    return made
