"""Texts that tokenizers stumble over, made from a seed; and the real ones of the shared data sets where they are there."""

import json
import os
import random
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("MMTUNE_SHARED", ROOT.parent / "shared"))

WORDS = """the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not what all
were we when your can said there use an each which she do how their if will up other about out many then them these so some her would
make like him into time has look two more write go see number no way could people my than first water been call who oil its now find
long down day did get come made may part walking talked international responsibility unbelievable tokenization misunderstandings
don't can't O'Neill e-mail state-of-the-art U.S.A. 3.14159 1,000,000 2024-11-22 $9.99 50% C++ #hashtag @user http://example.org/a?b=c&d
<br/> "quoted" (bracketed) [sic] {x} a_b_c foo/bar x^2 ~/.cache …""".split()
FOREIGN = """café naïve Ünïcödé Straße ĲSSEL Łódź Đà Nẵng İstanbul ıstanbul ΑΣΙΣ ὈΔΥΣΣΕΎΣ Привет МИР שלום עולם مرحبا بالعالم नमस्ते दुनिया
ข้าวผัด tiếng Việt 日本語のテキスト カタカナ がぎぐ ｶﾞｷﾞ 中文测试 繁體中文 한국어 텍스트 각각 ﬁﬂ ﬀ Ⅷ ½ ① ㈱ ㎏ ℡ ™ Å ǅ ẞ ß ϴ Ⴀ ᲀ Ꭰ ꭰ 𐐀 𝔸𝕓 𝟘 𑂚 𑄮 𑌲 א֑ a\u0332b\u0333 ሰላም გამარჯობა""".split()
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "1️⃣", "❤️", "☃", "🫠", "🪿", "🀄️", "©", "🧑🏿‍🚀", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"]
SPACES = [
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u2028",
    "\u2029",
    "\u1680",
    "\u0085",
    "\u200b",
    "\u202f",
    "\x0b",
    "\x0c",
    "\x1c",
]
CONTROLS = [
    "\x00",
    "\x01",
    "\x08",
    "\x1b",
    "\x7f",
    "\x80",
    "\x9f",
    "\u00ad",
    "\u200d",
    "\u200c",
    "\u200e",
    "\u202e",
    "\u2060",
    "\ufeff",
    "\ufffd",
    "\ufffe",
    "\uffff",
    "\ue000",
    "\U000f0000",
    "\U0010ffff",
    "\U000e0041",
    "\u0600",
    "\u06dd",
    "\u070f",
    "\U00013430",
]
MARKS = [
    chr(c)
    for c in (
        *range(0x300, 0x370),
        *range(0x483, 0x488),
        *range(0x591, 0x5BE),
        *range(0x610, 0x61B),
        *range(0x64B, 0x660),
        0x93C,
        0x94D,
        0x1DC0,
        0x1DF8,
        0x20D0,
        0x3099,
        0x309A,
        0xFE20,
        0x1D165,
        0x1E8D0,
        0x1AB0,
        0x1ACE,
        0x8D4,
        0x8E1,
        0x10F46,
    )
]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + list("¡¿«»“”‘’–—…‰†‡•‹›¶§¬°±×÷€£¥฿₿「」、。！？・～٪؟।॥⸮⹃𐄀〰")
SPECIAL = [
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[PAD]",
    "[UNK]",
    "[mask]",
    "[ MASK ]",
    "[MASK",
    "MASK]",
    "<tag>",
    "<TAG>",
    "<tag> ",
    " <tag>",
    "tagged",
    "héllo",
    "HELLO",
    "hello",
    "<trim>",
    "<left>",
    "<right>",
    "word",
    "wordword",
    "ab",
    "abc",
    "abcd",
]
BROKEN = [
    b"\xff",
    b"\x80",
    b"\xc0\xaf",
    b"\xe2\x82",
    b"\xe4\xb8",
    b"\xf0\x9f\x98",
    b"\xf0\x9f",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xc3",
    b"\xe0\x80\x80",
    b"\xf0\x80\x80\x80",
    b"\xfe\xff",
    b"\xc3\xc3\xa9",
    b"\xe2\x82\xe2\x82\xac",
    b"\xf1\x80\x80a",
]


def any_code_point(rng):
    ranges = [
        (0, 0x80),
        (0x80, 0x2000),
        (0x2000, 0x3400),
        (0x3400, 0xD800),
        (0xE000, 0x10000),
        (0x10000, 0x20000),
        (0x20000, 0x32000),
        (0xE0000, 0x110000),
    ]
    low, high = rng.choice(ranges)
    return chr(rng.randrange(low, high))


def cased(rng, word):
    return rng.choice((str.lower, str.upper, str.title, lambda w: w))(word)


def long_word(rng):
    unit = rng.choice(("x", "ab", "é", "e\u0301", "ß", "я", "क", "한", "𝔸", "[MASK", "\u200bq"))
    return (unit * 200)[: rng.choice((60, 98, 99, 100, 101, 102, 150, 200))]


def atom(rng):
    kind = rng.random()
    if kind < 0.35:
        return cased(rng, rng.choice(WORDS))
    if kind < 0.47:
        return cased(rng, rng.choice(FOREIGN))
    if kind < 0.54:
        return rng.choice(EMOJI)
    if kind < 0.62:
        return rng.choice(PUNCTUATION) * rng.choice((1, 1, 1, 2, 3))
    if kind < 0.70:
        base = rng.choice((*"aeiouyncs", "Å", "e\u0327", "각", "か", "क", "α", "İ", " ", "中", "ᄒ", "ᅡ", "ᆫ"))
        return base + "".join(rng.choice(MARKS) for _ in range(rng.randrange(1, 5)))
    if kind < 0.76:
        return chr(
            rng.choice(
                (
                    rng.randrange(0x3400, 0x9FFF),
                    rng.randrange(0xAC00, 0xD7A4),
                    rng.randrange(0x1100, 0x1200),
                    rng.randrange(0x20000, 0x2CEB0),
                    rng.randrange(0x2B730, 0x2B930),
                    rng.randrange(0xF900, 0xFB00),
                )
            )
        )
    if kind < 0.82:
        return rng.choice(CONTROLS)
    if kind < 0.88:
        return rng.choice(SPECIAL)
    if kind < 0.90:
        return long_word(rng)
    if kind < 0.95:
        return any_code_point(rng)
    return str(rng.randrange(10 ** rng.randrange(1, 12)))


def made_text(rng):
    """A str."""
    out = []
    for _ in range(int(rng.expovariate(1 / 8))):
        out.append(atom(rng))
        if rng.random() < 0.7:
            out.append(rng.choice(SPACES) if rng.random() < 0.15 else " ")
    return "".join(out)


def made_bytes(rng):
    """UTF-8 with broken places."""
    data = bytearray(made_text(rng).encode())
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        if rng.random() < 0.6:
            data[at:at] = rng.choice(BROKEN)
        elif rng.random() < 0.5:
            del data[at : at + 1]
        else:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 5)))
    return bytes(data)


def made(count, seed):
    """`count` texts, one in twelve as bytes with broken UTF-8."""
    rng = random.Random(seed)
    return [made_bytes(rng) if rng.random() < 1 / 12 else made_text(rng) for _ in range(count)]


def shared_texts():
    """(texts, pairs) of the shared data sets; empty where they are absent."""
    texts, pairs = [], []
    for path in sorted(SHARED.glob("data/*/*.jsonl")) + sorted(SHARED.glob("data/text/*/*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for key in ("text", "question", "sentence", "name", "emoji", "premise", "hypothesis", "caption"):
                if isinstance(row.get(key), str):
                    texts.append(row[key])
            for key in ("keywords", "captions"):
                texts.extend(item for item in row.get(key) or () if isinstance(item, str))
            if "premise" in row and "hypothesis" in row:
                pairs.append((row["premise"], row["hypothesis"]))
            if "question" in row and "answer" in row:
                pairs.append((row["question"], str(row["answer"])))
    return texts, pairs
