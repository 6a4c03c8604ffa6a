"""Ids back to text: every decoder of tokenizer.json against the `tokenizers` package, and folders of older files against transformers."""

import itertools
import json
import random

import pytest

tokenizers = pytest.importorskip("tokenizers")

import texts  # noqa: E402
import tokenizing  # noqa: E402
from bpe_models import clip_like, roberta_like  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models  # noqa: E402
from tokenizing import BERT, BERT_SPLIT, assert_decodes, decode, refusal, store, trained  # noqa: E402

pytestmark = pytest.mark.skipif(not tokenizing.TOOL.exists(), reason=f"{tokenizing.TOOL} is not built")


@pytest.fixture(scope="module")
def corpus():
    return [text for text in texts.made(4000, seed=21) if isinstance(text, str)]


@pytest.fixture(scope="module")
def kinds(corpus):
    return {"wordpiece": trained(corpus, BERT(), BERT_SPLIT(), 2000), "roberta": roberta_like(corpus, 2000), "clip": clip_like(corpus, 2000)}


def lists_of(reference, corpus, seed):
    """What texts are encoded as, and ids in any order, unknown ones among them."""
    rng = random.Random(seed)
    size = reference.get_vocab_size()
    encoded = [encoding.ids for encoding in reference.encode_batch(corpus[:2000])]
    return encoded + [[rng.randrange(size + 3) for _ in range(rng.randrange(12))] for _ in range(3000)]


@pytest.mark.parametrize("kind", ["wordpiece", "roberta", "clip"])
def test_texts_and_random_ids(tmp_path, kinds, corpus, kind):
    made = dict(kinds[kind])
    made["decoder"] = {
        "wordpiece": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "roberta": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "clip": {"type": "BPEDecoder", "suffix": "</w>"},
    }[kind]
    path, reference = store(tmp_path, made)
    assert_decodes(path, reference, lists_of(reference, corpus, 1))


PIECES = ["▁", "▁a", "▁the", "a▁b", "▁▁", "  x", " ", "é", "<0xC3>", "<0xA9>", "<0xE4>", "<0xB8>", "<0xad>", "<0x41>", "<0xZZ>", "<0x1>", "##s", "##", "do",
          "not", "n't", "'", "'s", ".", "!", ",", " .", "?", "x</w>", "</w>", "</w>y</w>", "Ġword", "Ċ", "Ã©", "Ã", "中", "|", "<pad>", "a", "aa", "\u0120é", "</s>"]
DECODERS = {
    "none": None,
    "byte_level": decoders.ByteLevel(),
    "wordpiece": decoders.WordPiece(),
    "wordpiece_plain": decoders.WordPiece(prefix="a", cleanup=False),
    "metaspace": decoders.Metaspace(),
    "metaspace_first": decoders.Metaspace(prepend_scheme="first", split=False),
    "metaspace_never": decoders.Metaspace(replacement="a", prepend_scheme="never"),
    "bpe": decoders.BPEDecoder(),
    "byte_fallback": decoders.ByteFallback(),
    "fuse": decoders.Sequence([decoders.Fuse(), decoders.Strip("▁", 1, 0)]),
    "strip": decoders.Strip("a", 1, 0),
    "strip_right": decoders.Strip("▁", 0, 1),
    "replace": decoders.Replace("▁", " "),
    "replace_spaces": decoders.Replace(Regex(r"\s+"), "_"),
    "ctc": decoders.CTC(),
    "llama": decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
}


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder(tmp_path, name):
    made = json.loads(Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(["[UNK]", *PIECES])}, unk_token="[UNK]")).to_str())
    if DECODERS[name] is not None:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.decoder = DECODERS[name]
        made["decoder"] = json.loads(tokenizer.to_str())["decoder"]
    made["added_tokens"] = [
        {"id": 1 + PIECES.index("</s>"), "content": "</s>", "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    ]
    path, reference = store(tmp_path, made)
    rng = random.Random(2)
    size = len(PIECES) + 1
    lists = [[rng.randrange(size) for _ in range(rng.randrange(1, 9))] for _ in range(6000)]
    lists += [list(pair) for pair in itertools.product(range(size), repeat=2)] + [[i] for i in range(size)]
    if name != "bpe":  # the package panics on an empty list there
        lists.append([])
    assert_decodes(path, reference, lists)
    assert decode(path, [[]]) == [""]


@pytest.mark.parametrize("kind", ["roberta", "gpt2", "clip", "bert"])
def test_folders_without_tokenizer_json(tmp_path, kinds, corpus, kind):
    transformers = pytest.importorskip("transformers")
    made = kinds[{"gpt2": "roberta", "bert": "wordpiece"}.get(kind, kind)]
    if kind == "bert":
        (tmp_path / "vocab.txt").write_text("\n".join(made["model"]["vocab"]) + "\n", encoding="utf-8")
    else:
        (tmp_path / "vocab.json").write_text(json.dumps(made["model"]["vocab"]))
        lines = [" ".join(merge) if isinstance(merge, list) else merge for merge in made["model"]["merges"]]
        (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    name = {"roberta": "RobertaTokenizer", "gpt2": "GPT2Tokenizer", "clip": "CLIPTokenizer", "bert": "BertTokenizer"}[kind]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    backend = getattr(transformers, name).from_pretrained(tmp_path)._tokenizer
    backend.no_truncation()
    backend.no_padding()
    assert_decodes(tmp_path, backend, lists_of(backend, corpus, 3))


def test_what_is_refused(tmp_path, kinds):
    def message(section):
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps({**kinds["roberta"], "decoder": section}))
        return refusal(path) or ""

    assert "decoder" in message({"type": "Rot13"}) and "'Rot13'" in message({"type": "Rot13"})
    assert "'beta'" in message({"type": "Fuse", "beta": 1})
    assert "one character" in message({"type": "Strip", "content": "ab", "start": 1, "stop": 0})
    assert "decoder[1]" in message({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Nothing"}]})
