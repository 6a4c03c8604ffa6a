#!/usr/bin/env python3
"""Writes src/text/unicode_tables.cpp: what the `tokenizers` package holds every code point to be.

The package carries Unicode tables of several ages (general categories of one version, normalisation of another, case of a third) and a
slip or two of its own. Identical token ids need identical answers, so the package itself is asked about every code point:

    python3 tools/make_unicode_tables.py > src/text/unicode_tables.cpp

Needs `pip install tokenizers`; the version asked is written into the file.
"""

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

CONTROL, WHITESPACE, NONSPACING, COMBINING, PUNCTUATION, WORD, CANONICAL, COMPATIBILITY, CHINESE, LETTER, NUMBER = (
    1 << i for i in range(11)
)


def bert(**flags):
    off = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    return normalizers.BertNormalizer(**{**off, **flags}).normalize_str


clean, chinese = bert(clean_text=True), bert(handle_chinese_chars=True)
accents, lower = bert(strip_accents=True), bert(lowercase=True)
nfd, nfkd = normalizers.NFD().normalize_str, normalizers.NFKD().normalize_str
strip, strip_accents = normalizers.Strip().normalize_str, normalizers.StripAccents().normalize_str
bert_split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
punctuation_split = pre_tokenizers.Punctuation().pre_tokenize_str
whitespace_split = pre_tokenizers.WhitespaceSplit().pre_tokenize_str
word_split = pre_tokenizers.Whitespace().pre_tokenize_str


def without(expression):
    """Removes what a regular expression of Split matches; its engine has classes of its own, apart from those of the other components."""
    return pre_tokenizers.Split(Regex(expression), "removed").pre_tokenize_str


no_letter, no_number, no_space = without(r"\p{L}"), without(r"\p{N}"), without(r"\s")


def pieces(splits):
    return [text for text, _ in splits]


def reorders(c):
    """Whether the canonical ordering of the package moves c: its combining class is not 0."""
    low, high = "\u0334", "\u0345"  # the lowest class (1) and the highest (240)
    return nfd("a" + c + low) == "a" + low + c or nfd("a" + high + c) == "a" + c + high


def properties(code):
    c = chr(code)
    inside = f"a{c}b"
    bits = 0
    white = pieces(whitespace_split(inside)) == ["a", "b"]
    cleaned = clean(inside)
    if cleaned == "ab":
        bits |= CONTROL
    else:
        assert (cleaned == "a b") == white, hex(code)
    assert (strip(c) == "") == white, hex(code)
    words = pieces(word_split(inside))
    assert (words == ["a", "b"]) == white, hex(code)
    if white:
        bits |= WHITESPACE
    elif words == [inside]:
        bits |= WORD
    if accents(inside) == "ab":
        bits |= NONSPACING
    if strip_accents(inside) == "ab":
        bits |= COMBINING
    punctuation = pieces(bert_split(inside)) == ["a", c, "b"]
    assert (pieces(punctuation_split(inside)) == ["a", c, "b"]) == punctuation, hex(code)
    if punctuation:
        bits |= PUNCTUATION
    canonical = nfd(c) != c
    if canonical or reorders(c):
        bits |= CANONICAL
    if nfkd(c) != nfd(c):
        bits |= COMPATIBILITY
    assert (no_space(c) == []) == white, hex(code)
    if no_letter(c) == []:
        bits |= LETTER
    if no_number(c) == []:
        bits |= NUMBER
    if chinese(c) != c:
        assert chinese(c) == f" {c} ", hex(code)
        bits |= CHINESE
    return bits


def property_rows():
    rows, last = [], None
    for code in range(0x110000):
        if 0xD800 <= code <= 0xDFFF:
            continue  # no text has surrogates
        bits = properties(code)
        if bits != last:
            rows.append((code, bits))
            last = bits
    return rows


def lower_rows():
    """Runs (first, last, step, delta) of code points with one-character lower case, and the longer ones."""
    runs, longer = [], []
    for code in range(0x110000):
        if 0xD800 <= code <= 0xDFFF:
            continue
        small = lower(chr(code))
        if len(small) > 1:
            longer.append((code, small))
            continue
        delta = ord(small) - code
        if delta == 0:
            continue
        if runs:
            first, last, step, same = runs[-1]
            gap = code - last
            if same == delta and gap <= 2 and (step == 0 or gap == step):
                runs[-1] = (first, code, gap, delta)
                continue
        runs.append((code, code, 0, delta))
    return [(first, last, step or 1, delta) for first, last, step, delta in runs], longer


def table(items, per_line=10):
    lines = [", ".join(items[i : i + per_line]) for i in range(0, len(items), per_line)]
    return ",\n".join("    " + line for line in lines) + ","


def main():
    rows = property_rows()
    runs, longer = lower_rows()
    assert [(code, small) for code, small in longer] == [(0x130, "i\u0307")], longer
    starts = [code for code, _ in rows]
    pages, at = [], 0
    for page in range(257):
        while at + 1 < len(starts) and starts[at + 1] <= page << 8:
            at += 1
        pages.append(at)
    print(f"// Made by tools/make_unicode_tables.py from tokenizers {tokenizers.__version__}; do not edit.")
    print('#include "text/unicode_tables.h"\n')
    print("namespace mmtune::text::tables {\n")
    print("// clang-format off")
    print("namespace {\n")
    print("constexpr std::uint32_t rows[] = {")
    print(table([f"0x{code << 11 | bits:x}" for code, bits in rows], 12))
    print("};\n")
    print("constexpr LowerRun runs[] = {")
    print(table([f"{{0x{f:x}, 0x{l:x}, {s}, {d}}}" for f, l, s, d in runs], 5))
    print("};\n")
    print("}  // namespace\n")
    print("const std::span<const std::uint32_t> property_rows = rows;")
    print("const std::span<const LowerRun> lower_runs = runs;")
    print("const std::array<std::uint16_t, 257> property_pages = {")
    print(table([str(p) for p in pages], 20))
    print("};")
    print("// clang-format on\n")
    print("}  // namespace mmtune::text::tables")


if __name__ == "__main__":
    main()
