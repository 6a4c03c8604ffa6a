"""Byte-pair encoding as RoBERTa, GPT-2 and CLIP use it: ids, masks, type ids, offsets and tokens against the `tokenizers` package."""

import copy
import itertools
import json
import random

import pytest

tokenizers = pytest.importorskip("tokenizers")

import texts  # noqa: E402
import tokenizing  # noqa: E402
from bpe_models import CLIP, GPT2, MARKED_CLIP, clip_like, clip_normalizer, clip_split, roberta_like  # noqa: E402
from test_tokenizer import code_points, inside_words  # noqa: E402
from tokenizers import Regex, Tokenizer, models, normalizers, processors, trainers  # noqa: E402
from tokenizers import pre_tokenizers as P  # noqa: E402
from tokenizing import Case, assert_equal, refusal, store, with_added  # noqa: E402

pytestmark = pytest.mark.skipif(not tokenizing.TOOL.exists(), reason=f"{tokenizing.TOOL} is not built")

ENOUGH = 100_000


@pytest.fixture(scope="module")
def corpus():
    """Texts to train on: the real ones where they are there, and made ones."""
    found = texts.shared_texts()[0]
    return random.Random(0).sample(found, min(len(found), 20_000)) + made_texts(3000, seed=1)


@pytest.fixture(scope="module")
def roberta(corpus):
    return roberta_like(corpus)


@pytest.fixture(scope="module")
def clip(corpus):
    return clip_like(corpus)


def made_texts(count, seed):
    return [text for text in texts.made(count, seed=seed) if isinstance(text, str)]


def gpt2_of(roberta, **options):
    made = copy.deepcopy(roberta)
    made["pre_tokenizer"].update(options)
    made["post_processor"] = {"type": "ByteLevel", "trim_offsets": False, "add_prefix_space": True, "use_regex": True}
    return made


SPECIAL_CASES = [" ", "  ", "\n", " a", "a ", "  a  b ", "<mask>", "a <mask> b", " <mask>", "'s", "it's 'SO it'll we're", "1 22 333", "<|endoftext|>",
                 "a<|startoftext|>b", "!'s", " 's", "a\u3000 b", "\u00a0a", "a \n b", "ends in spaces   ", "\u0120a", "é", "👩‍👩‍👧‍👦"]


@pytest.mark.parametrize("kind", ["roberta", "clip"])
def test_a_hundred_thousand_made_texts(tmp_path, request, kind):
    path, reference = store(tmp_path, request.getfixturevalue(kind))
    assert_equal(path, reference, [Case(text) for text in [*texts.made(ENOUGH, seed=2), *SPECIAL_CASES]])


@pytest.mark.parametrize("kind", ["roberta", "clip"])
def test_the_texts_of_the_data_sets(tmp_path, request, kind):
    found, pairs = texts.shared_texts()
    if not found:
        pytest.skip(f"no data sets in {texts.SHARED}")
    path, reference = store(tmp_path, request.getfixturevalue(kind))
    assert_equal(path, reference, [Case(text) for text in dict.fromkeys(found)])
    assert_equal(path, reference, [Case(*pair) for pair in random.Random(3).sample(pairs, min(len(pairs), 5000))])


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("kind", ["roberta", "clip", "gpt2"])
def test_pairs_and_truncation(tmp_path, request, kind, special):
    made = gpt2_of(request.getfixturevalue("roberta")) if kind == "gpt2" else request.getfixturevalue(kind)
    lengths = [None, 0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 31, 64, 512]
    cases = [
        Case(first, second if index % 3 else None, special, lengths[index % len(lengths)])
        for index, (first, second) in enumerate(itertools.pairwise([*texts.made(8000, seed=4), *SPECIAL_CASES]))
    ]
    assert_equal(*store(tmp_path, made), cases)


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("post", ["RobertaProcessing", "ByteLevel", "Sequence", None])
def test_settings_of_byte_level(tmp_path, roberta, prefix, trim, post):
    made = copy.deepcopy(roberta)
    made["pre_tokenizer"].update(add_prefix_space=prefix)
    byte_level = {"type": "ByteLevel", "trim_offsets": trim, "add_prefix_space": prefix, "use_regex": True}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    made["post_processor"] = {
        "RobertaProcessing": {**roberta["post_processor"], "trim_offsets": trim, "add_prefix_space": prefix},
        "ByteLevel": byte_level,
        "Sequence": {"type": "Sequence", "processors": [byte_level, template]},
        None: None,
    }[post]
    sample = [*texts.made(3000, seed=5), *SPECIAL_CASES]
    cases = [Case(a, b if i % 2 else None, i % 5 != 0, (None, 6, 12, 3)[i % 4]) for i, (a, b) in enumerate(itertools.pairwise(sample))]
    assert_equal(*store(tmp_path, made), cases)
    made["truncation"] = {"max_length": 7, "strategy": "LongestFirst", "stride": 0, "direction": "Left"}
    assert_equal(*store(tmp_path, made), [Case(text) for text in sample[:1000]])


PRE_TOKENIZERS = {
    "no_regex": P.ByteLevel(add_prefix_space=True, use_regex=False),
    "gpt2_split": P.Sequence([P.Split(Regex(GPT2), "isolated"), P.ByteLevel(add_prefix_space=False, use_regex=False)]),
    "clip": P.Sequence([clip_split(CLIP), P.ByteLevel(add_prefix_space=False)]),
    "clip_prefixed": P.Sequence([clip_split(CLIP), P.ByteLevel(add_prefix_space=True)]),
    "spaces": P.Sequence([P.Split(Regex(r"\s+"), "merged_with_next"), P.ByteLevel(add_prefix_space=False, use_regex=False)]),
    "byte_level_first": P.Sequence([P.ByteLevel(add_prefix_space=True), P.Punctuation(), P.ByteLevel(add_prefix_space=False)]),
    "words": P.Sequence([P.Whitespace(), P.ByteLevel(add_prefix_space=True)]),
}
SPLITS = [
    (pattern, behaviour, invert)
    for pattern in ("a", "e ", Regex(CLIP), Regex(MARKED_CLIP), Regex(r"\s+"))
    for behaviour in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous")
    for invert in (False, True)
]


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_pre_tokenizers(tmp_path, roberta, name):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[name]
    made = {**roberta, "pre_tokenizer": json.loads(tokenizer.to_str())["pre_tokenizer"]}
    assert_equal(*store(tmp_path, made), [Case(text) for text in [*texts.made(4000, seed=6), *SPECIAL_CASES]])


@pytest.mark.parametrize("index", range(len(SPLITS)))
def test_every_way_to_split(tmp_path, roberta, index):
    pattern, behaviour, invert = SPLITS[index]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = P.Sequence([P.Split(pattern, behaviour, invert), P.ByteLevel(add_prefix_space=True, use_regex=False)])
    made = {**roberta, "pre_tokenizer": json.loads(tokenizer.to_str())["pre_tokenizer"]}
    assert_equal(*store(tmp_path, made), [Case(text) for text in [*texts.made(600, seed=7), *SPECIAL_CASES]])


@pytest.mark.parametrize("content", ["", " ", "é ", "ab"])
def test_replace_of_white_space(tmp_path, roberta, content):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), content)
    made = {**roberta, "normalizer": json.loads(tokenizer.to_str())["normalizer"]}
    assert_equal(*store(tmp_path, made), [Case(text) for text in [*texts.made(3000, seed=8), *SPECIAL_CASES]])


@pytest.mark.parametrize("plane", [0, 1, 2, 3, 14])
@pytest.mark.parametrize("kind", ["roberta", "clip"])
def test_every_code_point(tmp_path, request, kind, plane):
    """Between letters, numbers, marks and spaces, so that its class decides where the text is cut."""
    path, reference = store(tmp_path, request.getfixturevalue(kind))
    chars = code_points(plane << 16, (plane + 1) << 16)
    made = inside_words(chars)
    for before, after in (("1", "2"), ("!", "?"), (" ", " "), ("'", "s")):
        made += ["a".join(f"{before}{char}{after}" for char in chars[i : i + 64]) for i in range(0, len(chars), 64)]
    assert_equal(path, reference, [Case(text, special=False) for text in made])


def test_added_tokens(tmp_path, roberta):
    added = [dict(content="<tag>", special=True), dict(content=" <left>", lstrip=True), dict(content="<trim>", lstrip=True, rstrip=True),
             dict(content="word", single_word=True), dict(content="\u0120x", normalized=True)]
    made = with_added(roberta, *added)
    pieces = [token["content"] for token in added] + ["<mask>", " ", "  ", "a", " a", "é", "\u3000", "Ġx", "'s", "7"]
    rng = random.Random(9)
    mixed = ["".join(rng.choices(pieces, k=rng.randrange(1, 9))) for _ in range(10_000)]
    assert_equal(*store(tmp_path, made), [Case(text) for text in mixed])


def hostile_model(rng):
    """A model over few letters with merges in any order, so that candidates go out of date in every way."""
    prefix, suffix = rng.choice(["", "", "##"]), rng.choice(["", "", "</w>"])
    letters = list("abcé中")[: rng.randrange(3, 6)]
    vocabulary = ["<u>", *letters]
    vocabulary += [prefix + letter for letter in letters if prefix and rng.random() < 0.9]
    vocabulary += [p + letter + suffix for letter in letters for p in {"", prefix} if suffix and rng.random() < 0.9]
    merges = []
    for _ in range(rng.randrange(0, 40)):
        left, right = rng.choice(vocabulary[1:]), rng.choice(vocabulary[1:])
        if (prefix and not right.startswith(prefix)) or left.endswith("</w>") or len(left + right) > 14:
            continue
        vocabulary.append(left + right[len(prefix) :])
        merges.append([left, right])
    vocabulary = list(dict.fromkeys(vocabulary))
    rng.shuffle(merges)
    fallback = not prefix and not suffix and rng.random() < 0.5
    if fallback:
        vocabulary += [f"<0x{byte:02X}>" for byte in "é中xy".encode() if rng.random() < 0.8]
        vocabulary = list(dict.fromkeys(vocabulary))
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": rng.choice([None, "<u>"]),
        "continuing_subword_prefix": prefix or rng.choice(["", None]),
        "end_of_word_suffix": suffix or rng.choice(["", None]),
        "fuse_unk": rng.random() < 0.5,
        "byte_fallback": fallback,
        "ignore_merges": rng.random() < 0.3,
        "vocab": {token: index for index, token in enumerate(vocabulary)},
        "merges": merges if rng.random() < 0.5 else [" ".join(merge) for merge in merges],
    }


@pytest.mark.parametrize("seed", range(60))
def test_models_with_merges_in_any_order(tmp_path, seed):
    rng = random.Random(seed)
    made = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": None, "decoder": None, "model": hostile_model(rng)}
    cases = ["".join(rng.choices("abcé中xyÿ ", weights=[6, 6, 6, 2, 2, 1, 1, 1, 1], k=rng.randrange(1, 24))) for _ in range(400)]
    cases += ["a" * 300, "ab" * 200, "aab" * 100]
    assert_equal(*store(tmp_path, made), [Case(text) for text in cases])


@pytest.mark.parametrize("kind", ["roberta", "gpt2", "clip"])
@pytest.mark.parametrize("change", range(4))
def test_folder_with_vocab_json_and_merges(tmp_path, request, kind, change):
    """A folder without tokenizer.json against transformers' own reading of it."""
    transformers = pytest.importorskip("transformers")
    made = request.getfixturevalue("clip" if kind == "clip" else "roberta")
    name = {"roberta": "RobertaTokenizer", "gpt2": "GPT2Tokenizer", "clip": "CLIPTokenizer"}[kind]
    config = [
        {"tokenizer_class": name},
        {"tokenizer_class": name + "Fast", "add_prefix_space": True, "model_max_length": 77},
        {"trim_offsets": False, "unk_token": "<|endoftext|>" if kind == "clip" else "<unk>"},
        {"tokenizer_class": name},
    ][change]
    (tmp_path / "vocab.json").write_text(json.dumps(made["model"]["vocab"]))
    lines = [" ".join(merge) if isinstance(merge, list) else merge for merge in made["model"]["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    if change == 3:
        token = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
        (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": token, "bos_token": "<s>"}))
    reference = getattr(transformers, name).from_pretrained(tmp_path)
    backend = reference._tokenizer
    backend.no_truncation()
    backend.no_padding()
    sample = [*texts.made(1500, seed=11), *SPECIAL_CASES]
    cases = [Case(a, b if i % 3 == 0 else None, i % 5 != 0) for i, (a, b) in enumerate(itertools.pairwise(sample))]
    assert_equal(tmp_path, backend, cases)


def test_what_is_refused(tmp_path, roberta):
    def message(**changes):
        made = copy.deepcopy(roberta)
        made["model"].update(changes)
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(made))
        return refusal(path) or ""

    assert message() == ""
    assert "merge 0" in message(merges=["Ġ qqq"]) and "'qqq'" in message(merges=[["Ġ", "qqq"]])
    assert "'qz'" in message(merges=["q z"])
    assert "dropout" in message(dropout=0.1)
    assert message(dropout=0) == ""
    assert "'no such'" in message(unk_token="no such")


def test_opt_folder(tmp_path, roberta):
    """vocab.json and merges.txt with the </s> in front that OPT's tokenizer_config.json asks for, and the tokenizer.json of the same."""
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.json").write_text(json.dumps(roberta["model"]["vocab"]))
    lines = [" ".join(merge) if isinstance(merge, list) else merge for merge in roberta["model"]["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    token = {"__type": "AddedToken", "content": "</s>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    config = {"errors": "replace", "unk_token": token, "bos_token": token, "eos_token": token, "pad_token": {**token, "content": "<pad>"},
              "add_prefix_space": False, "add_bos_token": True, "tokenizer_class": "GPT2Tokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    backend = transformers.GPT2Tokenizer.from_pretrained(tmp_path)._tokenizer
    backend.no_truncation()
    backend.no_padding()
    assert backend.encode("a b").tokens[0] == "</s>"
    sample = [*texts.made(1500, seed=12), *SPECIAL_CASES, "</s>", "a</s> <pad>b"]
    cases = [Case(a, b if i % 3 == 0 else None, i % 5 != 0) for i, (a, b) in enumerate(itertools.pairwise(sample))]
    assert_equal(tmp_path, backend, cases)
    tokenizing.assert_decodes(tmp_path, backend, [encoding.ids for encoding in backend.encode_batch([text for text in sample if isinstance(text, str)])])
    saved = tmp_path / "saved"
    saved.mkdir()
    assert_equal(*store(saved, json.loads(backend.to_str())), cases)


def test_ofa_folder(tmp_path, roberta):
    """OFA's tokens for codes and places stand behind the vocabulary, in this order."""
    vocabulary = roberta["model"]["vocab"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    lines = [" ".join(merge) if isinstance(merge, list) else merge for merge in roberta["model"]["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "OFATokenizer"}))
    (columns, tokens), = tokenizing.encode(tmp_path, [Case(" a<code_0><code_8191> <bin_0><bin_999>")])
    size = len(vocabulary)
    assert columns[0].tolist() == [vocabulary["<s>"], vocabulary["Ġa"], size, size + 8191, vocabulary["Ġ"], size + 8192, size + 9191, vocabulary["</s>"]]
    assert tokenizing.decode(tmp_path, [columns[0].tolist()]) == [" a<code_0><code_8191> <bin_0><bin_999>"]
