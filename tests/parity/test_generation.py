"""Greedy and beam search against transformers' generate on tiny random LLaMA, OPT and T5: the same sequences, the same scores."""

import json
import os
import subprocess
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from compare import randomise  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TOOL = Path(os.environ.get("MMTUNE_BUILD", ROOT / "build")).resolve() / "mmtune_generate_tool"
WORDS, END, PAD = 24, 2, 1  # a small vocabulary, so that some answers end early
PROMPTS = [[3, 9, 4, 7, 12, 5], [8, 11, 6], [5, 5, 20, 13]]


def config(family):
    tokens = dict(vocab_size=WORDS, bos_token_id=0, eos_token_id=END, pad_token_id=PAD)
    if family == "Llama":
        return transformers.LlamaConfig(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                        max_position_embeddings=64, **tokens)
    if family == "OPT":
        return transformers.OPTConfig(hidden_size=24, ffn_dim=40, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=24,
                                      max_position_embeddings=64, **tokens)
    return transformers.T5Config(d_model=24, d_kv=6, d_ff=40, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
                                 decoder_start_token_id=0, **{k: v for k, v in tokens.items() if k != "bos_token_id"})


@pytest.fixture(scope="module", params=["Llama", "OPT", "T5"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(7)
    made = getattr(transformers, {"T5": "T5ForConditionalGeneration"}.get(request.param, request.param + "ForCausalLM"))(config(request.param))
    made = randomise(made).eval()
    if request.param == "T5":  # which transformers ties to the embeddings, so that it repeats what it has said
        made.lm_head.weight = torch.nn.Parameter(torch.randn(WORDS, made.config.d_model) * 1.5)
    made.save_pretrained(folder)
    return made, folder


def padded(texts, left):
    longest = max(map(len, texts))
    ids, mask = torch.full((len(texts), longest), PAD), torch.zeros(len(texts), longest, dtype=torch.long)
    for row, text in enumerate(texts):
        place = slice(longest - len(text), None) if left else slice(0, len(text))
        ids[row, place], mask[row, place] = torch.tensor(text), 1
    return ids, mask


def theirs(made, beams, answers, prompts=PROMPTS, **options):
    seq2seq = made.config.is_encoder_decoder
    ids, mask = padded(prompts, not seq2seq)
    with torch.no_grad():
        out = made.generate(input_ids=ids, attention_mask=mask, do_sample=False, num_beams=beams, num_return_sequences=answers,
                            return_dict_in_generate=True, output_scores=True, **options)
    begin = 1 if seq2seq else ids.shape[1]
    all_ = []
    for row in out.sequences[:, begin:].tolist():
        all_.append(row[:row.index(END) + 1] if END in row else row)
    scores = out.sequences_scores.tolist() if beams > 1 else [None] * len(all_)
    return [[(all_[i], scores[i]) for i in range(b * answers, (b + 1) * answers)] for b in range(len(prompts))]


def ours(folder, tmp_path, beams, answers, prompts=PROMPTS, early_stopping=True, **options):
    request = {"prompts": prompts, "beams": beams, "answers": answers, "ends": [END], "max_new_tokens": options["max_new_tokens"],
               "min_new_tokens": options.get("min_new_tokens", 0), "length_penalty": options.get("length_penalty", 1.0),
               "early_stopping": {True: "yes", False: "no"}.get(early_stopping, early_stopping),
               "no_repeat_ngram": options.get("no_repeat_ngram_size", 0), "repetition_penalty": options.get("repetition_penalty", 1.0)}
    (tmp_path / "request.json").write_text(json.dumps(request))
    done = subprocess.run([str(TOOL), str(folder), str(tmp_path / "request.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [[(one["tokens"], one["score"]) for one in row] for row in json.loads(done.stdout)]


def same(mine, reference):
    ends = 0
    for row, other in zip(mine, reference, strict=True):
        assert [tokens for tokens, _ in row] == [tokens for tokens, _ in other]
        for (tokens, score), (_, expected) in zip(row, other):
            ends += tokens[-1] == END
            if expected is not None:
                assert score == pytest.approx(expected, abs=1e-4)
    return ends


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("beams", [3, 5])
def test_beam_search(model, tmp_path, beams, length_penalty, early_stopping):
    options = dict(max_new_tokens=10, length_penalty=length_penalty, early_stopping=early_stopping)
    same(ours(model[1], tmp_path, beams, beams, **options), theirs(model[0], beams, beams, **options))


def test_some_answers_end_and_others_do_not(model, tmp_path):
    """The models above say something: otherwise the comparisons would be of little worth."""
    found = ours(model[1], tmp_path, 5, 5, max_new_tokens=10, length_penalty=0.0)
    tokens = [answer for row in found for answer, _ in row]
    assert any(answer[-1] == END for answer in tokens) and len({len(answer) for answer in tokens}) > 1 and len({tuple(answer) for answer in tokens}) > 8


def test_greedy_search(model, tmp_path):
    same(ours(model[1], tmp_path, 1, 1, max_new_tokens=12), theirs(model[0], 1, 1, max_new_tokens=12))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("options", [dict(min_new_tokens=4), dict(no_repeat_ngram_size=2), dict(repetition_penalty=1.7)], ids=lambda o: next(iter(o)))
def test_rules_for_tokens(model, tmp_path, beams, options):
    options = dict(max_new_tokens=9, **options) | ({"early_stopping": True} if beams > 1 else {})
    # transformers counts the padding in front of a prompt as said: prompts of one length.
    options["prompts"] = [prompt[:3] for prompt in PROMPTS]
    same(ours(model[1], tmp_path, beams, beams, **options), theirs(model[0], beams, beams, **options))
