"""BLEU and CIDEr against a plain restatement of the COCO caption evaluation's arithmetic."""

import json
import math
import os
import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest

TOOL = Path(os.environ.get("MMTUNE_BUILD", Path(__file__).resolve().parents[2] / "build")).resolve() / "mmtune_captions_tool"
pytestmark = pytest.mark.skipif(not TOOL.exists(), reason=f"{TOOL} is not built")

WORDS = "a a a the dog dogs cat man woman on in with and red blue is running sitting table street holding two small large".split()


def scored(candidates, references):
    given = json.dumps({"candidates": candidates, "references": references})
    return json.loads(subprocess.run([str(TOOL)], input=given, capture_output=True, check=True, text=True).stdout)


def grams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def bleu(pairs):
    right, guessed, length, reference_length = [0] * 4, [0] * 4, 0, 0
    for candidate, references in pairs:
        length += len(candidate)
        reference_length += min((abs(len(reference) - len(candidate)), len(reference)) for reference in references)[1]
        for n in range(1, 5):
            most = Counter()
            for reference in references:
                most |= grams(reference, n)
            right[n - 1] += sum((grams(candidate, n) & most).values())
            guessed[n - 1] += max(0, len(candidate) - n + 1)
    scores, product = [], 1.0
    ratio = (length + 1e-15) / (reference_length + 1e-9)
    for n in range(4):
        product *= (right[n] + 1e-15) / (guessed[n] + 1e-9)
        scores.append(product ** (1 / (n + 1)) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1))
    return scores


def cider(pairs, plain):
    documents = Counter()
    for _, references in pairs:
        documents.update({gram for reference in references for n in range(1, 5) for gram in grams(reference, n)})
    count = math.log(len(pairs))

    def vector(words):
        return [{gram: times * (count - math.log(max(1.0, documents[gram]))) for gram, times in grams(words, n).items()} for n in range(1, 5)]

    def norm(weights):
        return math.sqrt(sum(weight**2 for weight in weights.values()))

    scores = []
    for candidate, references in pairs:
        mine, total = vector(candidate), 0.0
        for reference in references:
            theirs = vector(reference)
            difference = sum(grams(candidate, 2).values()) - sum(grams(reference, 2).values())
            for n in range(4):
                common = sum((weight if plain else min(weight, theirs[n].get(gram, 0.0))) * theirs[n].get(gram, 0.0) for gram, weight in mine[n].items())
                if norm(mine[n]) and norm(theirs[n]):
                    common /= norm(mine[n]) * norm(theirs[n])
                total += common * (1 if plain else math.exp(-(difference**2) / 72))
        scores.append(10 * total / 4 / len(references))
    return scores


@pytest.mark.parametrize("seed", range(5))
def test_random_captions(seed):
    rng = random.Random(seed)

    def caption(low):
        return " ".join(rng.choices(WORDS, k=rng.randrange(low, 14)))

    references = [[caption(1) for _ in range(rng.randrange(1, 6))] for _ in range(60)]
    candidates = [rng.choice([caption(0), rng.choice(found), rng.choice(found) + " " + caption(0)]) for found in references]
    got = scored(candidates, references)
    pairs = [(candidate.split(), [reference.split() for reference in found]) for candidate, found in zip(candidates, references, strict=True)]
    assert got["tokens"] == [[candidate, found] for candidate, found in pairs]
    assert got["bleu"] == pytest.approx(bleu(pairs), abs=1e-12)
    assert got["cider_d"] == pytest.approx(cider(pairs, False), abs=1e-9)
    assert got["cider"] == pytest.approx(cider(pairs, True), abs=1e-9)


def test_tokens_in_the_manner_of_the_treebank():
    texts = {
        "A man's hat, isn't it?": ["a", "man", "'s", "hat", "is", "n't", "it"],
        "Two T-shirts -- 3.50$ (or 1,000)!": ["two", "t-shirts", "3.50", "$", "or", "1,000"],
        "I’m sure they've “cannot” done; it…": ["i", "'m", "sure", "they", "'ve", "can", "not", "done", "it"],
        "Black & white, 50% off.": ["black", "&", "white", "50", "%", "off"],
        "It's 10:30 a.m. in the U.S.": ["it", "'s", "10:30", "a.m", "in", "the", "u.s"],
        "": [],
        " \n ": [],
        "ÉTÉ über": ["été", "über"],
    }
    got = scored(list(texts), [["x"]] * len(texts))
    assert [tokens for tokens, _ in got["tokens"]] == list(texts.values())
