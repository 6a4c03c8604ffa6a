"""Drives mmtune_tokenize_tool, and says where its encodings differ from those of the `tokenizers` package."""

import copy
import json
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
TOOL = Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")).resolve() / "mmtune_tokenize_tool"

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass
class Case:
    text: str | bytes
    pair: str | bytes | None = None
    special: bool = True
    max_length: int | None = None


def _bytes(text):
    return text if isinstance(text, bytes) else text.encode()


def _str(text):
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def encode(path, cases):
    """What the tool makes of the cases: (columns as an array of 6 × n, tokens) each, or the text of an error."""
    sent = bytearray()
    for case in cases:
        flags = (case.pair is not None) | (0 if case.special else 2)
        sent += struct.pack("<Bi", flags, -1 if case.max_length is None else case.max_length)
        for text in (case.text,) if case.pair is None else (case.text, case.pair):
            data = _bytes(text)
            sent += struct.pack("<I", len(data)) + data
    done = subprocess.run([str(TOOL), str(path)], input=bytes(sent), capture_output=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    got, at, out = [], 0, done.stdout

    def text():
        nonlocal at
        size = struct.unpack_from("<I", out, at)[0]
        at += 4 + size
        return out[at - size : at].decode()

    while at < len(out):
        count = struct.unpack_from("<I", out, at)[0]
        at += 4
        if count == 0xFFFFFFFF:
            got.append(text())
            continue
        columns = np.frombuffer(out, np.int32, 6 * count, at).reshape(6, count)
        at += 24 * count
        got.append((columns, [text() for _ in range(count)]))
    assert len(got) == len(cases)
    return got


def refusal(path):
    """The message with which the tool refuses a tokenizer, or None."""
    done = subprocess.run([str(TOOL), str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=600)
    return None if done.returncode == 0 else done.stderr.strip()


def _expected(encodings):
    for encoding in encodings:
        offsets = encoding.offsets
        columns = [encoding.ids, encoding.type_ids, encoding.attention_mask, encoding.special_tokens_mask]
        columns += [[begin for begin, _ in offsets], [end for _, end in offsets]]
        yield np.array(columns, np.int32).reshape(6, -1), encoding.tokens


def differences(path, reference, cases):
    """Descriptions of the cases whose encodings differ. A case without max_length is cut as the reference itself cuts."""
    got = encode(path, cases)
    groups = {}
    for index, case in enumerate(cases):
        groups.setdefault((case.special, case.max_length), []).append(index)
    wrong = []
    own = reference.truncation

    def cut(max_length):
        if max_length is not None:
            reference.enable_truncation(max_length)
        elif own is not None:
            reference.enable_truncation(**own)
        else:
            reference.no_truncation()

    for (special, max_length), indices in groups.items():
        cut(max_length)
        inputs = []
        for index in indices:
            case = cases[index]
            inputs.append(_str(case.text) if case.pair is None else (_str(case.text), _str(case.pair)))
        for index, (columns, tokens) in zip(indices, _expected(reference.encode_batch(inputs, add_special_tokens=special)), strict=True):
            mine = got[index]
            if isinstance(mine, str) or mine[1] != tokens or not np.array_equal(mine[0], columns):
                shown = mine if isinstance(mine, str) else f"{mine[1]} {mine[0].tolist()}"
                wrong.append(f"{cases[index]!r}:\n    mmtune     {shown}\n    tokenizers {tokens} {columns.tolist()}")
    cut(None)
    return wrong


def assert_equal(path, reference, cases):
    wrong = differences(path, reference, cases)
    assert not wrong, f"{len(wrong)} of {len(cases)} texts differ:\n" + "\n".join(text[:400] for text in wrong[:10])


def trained(corpus, normalizer, pre_tokenizer, size=3000):
    """A small WordPiece tokenizer as the dict of its tokenizer.json."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=SPECIALS, limit_alphabet=1200, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    made = json.loads(tokenizer.to_str())
    made["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    return made


def with_vocabulary(tokens, normalizer=None, pre_tokenizer=None):
    """A WordPiece tokenizer of the given tokens, as a dict; [UNK] is number 0."""
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    made = json.loads(tokenizer.to_str())
    made["model"]["vocab"] = {token: index for index, token in enumerate(dict.fromkeys(["[UNK]", *tokens]))}
    return made


def with_added(tokenizer, *added):
    """A copy with added tokens behind the vocabulary (or in it)."""
    made = copy.deepcopy(tokenizer)
    vocabulary = made["model"]["vocab"]
    following = max(len(vocabulary), *(token["id"] + 1 for token in made["added_tokens"]), 0)
    for token in added:
        plain = dict(special=False, single_word=False, lstrip=False, rstrip=False, normalized=False)
        identifier = vocabulary.get(token["content"])
        if identifier is None:
            identifier, following = following, following + 1
        made["added_tokens"].append({"id": identifier, **plain, **token})
    return made


def store(folder, tokenizer, name="tokenizer.json"):
    """Writes a dict as a file; returns the path and the package's reading of it, without truncation and padding."""
    path = Path(folder) / name
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    reference = Tokenizer.from_file(str(path))
    if tokenizer.get("truncation") is None:
        reference.no_truncation()
    reference.no_padding()
    return path, reference


BERT = normalizers.BertNormalizer
BERT_SPLIT = pre_tokenizers.BertPreTokenizer


def decode(path, lists, skip=True):
    """The texts that the tool makes of lists of ids."""
    sent = bytearray()
    for ids in lists:
        sent += struct.pack(f"<BI{len(ids)}i", int(skip), len(ids), *ids)
    done = subprocess.run([str(TOOL), "--decode", str(path)], input=bytes(sent), capture_output=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    out, at, texts = done.stdout, 0, []
    while at < len(out):
        size = struct.unpack_from("<I", out, at)[0]
        at += 4 + size
        texts.append(out[at - size : at].decode())
    assert len(texts) == len(lists)
    return texts


def assert_decodes(path, reference, lists):
    """Both ways to treat special tokens."""
    for skip in (True, False):
        expected = reference.decode_batch(lists, skip_special_tokens=skip)
        wrong = [
            f"{ids}:\n    mmtune     {mine!r}\n    tokenizers {theirs!r}"
            for ids, mine, theirs in zip(lists, decode(path, lists, skip), expected, strict=True)
            if mine != theirs
        ]
        assert not wrong, f"{len(wrong)} of {len(lists)} lists differ:\n" + "\n".join(text[:400] for text in wrong[:10])
