"""SentencePiece models, trained on the spot."""

import io

import sentencepiece


def trained(corpus, **options):
    """The bytes of a model file. Options of the trainer; texts are lines."""
    made = io.BytesIO()
    lines = [line for text in corpus for line in text.splitlines() if line.strip() and "\0" not in line and len(line.encode()) < 4000]
    settings = dict(vocab_size=1500, character_coverage=0.995, hard_vocab_limit=False, num_threads=1, minloglevel=2)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=made, **{**settings, **options})
    return made.getvalue()


LLAMA = dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
             vocab_size=1600)
T5 = dict(model_type="unigram", normalization_rule_name="nmt_nfkc", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


def llama_like(corpus, **options):
    return trained(corpus, **{**LLAMA, **options})


def t5_like(corpus, **options):
    return trained(corpus, **{**T5, **options})
