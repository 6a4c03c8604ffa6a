#!/usr/bin/env python3
"""Collects what the recipes in recipes/pretrain/ read into one folder.

  pictures.jsonl      training pictures of the data packs, where they lie, with questions and answers made of their labels, and captions
  questions.jsonl     those of them that models are asked about: no single emoji in Twemoji's style, and no question about platelets, so that there is a kind
                      of picture and a task that visual prompts can be tried on and that no model was taught
  scenes.tar          drawings of 1 to 9 emoji on a plain ground, for counting
  llava, opt, t5, clip     tokenizers (byte-level BPE), each trained on the questions and answers, of different sizes

Only training splits are taken; the pack coco_cc is not touched.
"""

import argparse
import io
import json
import pathlib
import random

from prepare_pretraining import CALTECH, CLOTHING, DIGITS, EUROSAT, Archive, pictures, rows_of, shard_bytes, write_lines

PHOTO = "This is a photo of a"
COUNT = "How many objects are there in this image? Answer with a single number."
FASHION = {"T-shirt/top": "t-shirt or top", "Ankle boot": "ankle boot"}
WEIGHTS = {"caltech20": 3.0, "clothing10": 3.0, "flowers5": 3.0, "bccd": 2.0, "easy_vqa": 0.5, "emoji": 0.7, "mnist_fsdd": 0.5}
SCENES = 4000
BYTE_LEVEL = {"llava": 700, "opt": 1000, "t5": 500}
NAMED = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def spoken(pack, name):
    """What a class is called in an answer; recipes/tvp say the same."""
    if pack == "eurosat":
        return EUROSAT[name].removeprefix("a ")
    if pack == "clothing10":
        return CLOTHING.get(name, name).removeprefix("a ")
    if pack == "fashion_mnist":
        return FASHION.get(name, name.lower())
    if pack == "caltech20":
        return CALTECH.get(name, name.replace("_", " "))
    return name


def with_article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def class_questions(name, others, rng):
    questions = [[PHOTO, name], [PHOTO, name], ["What is this?", name], [f"Is this {with_article(name)}?", "yes"]]
    return questions + [[f"Is this {with_article(rng.choice(others))}?", "no"]]


def place(folder, row):
    return {"image": f"{folder}/{row['shard']}#{row['member']}", "offset": row["offset"], "size": row["size"]}


def recognition(data, rng):
    for pack in ["eurosat", "clothing10", "fashion_mnist", "caltech20", "flowers5"]:
        rows = rows_of(data / pack)
        names = sorted({spoken(pack, row["class_name"]) for row in rows})
        for row in rows:
            if row["split"] != "train":
                continue
            name = spoken(pack, row["class_name"])
            yield pack, {
                "id": row["id"], **place(data / pack, row), "mirror": True, "texts": [f"this is a photo of a {name}"],
                "questions": class_questions(name, [other for other in names if other != name], rng),
            }


def emoji(data, rng):
    rows = [row for row in rows_of(data / "emoji") if row["split"] == "train"]
    groups = sorted({row["class_name"] for row in rows})
    for row in rows:
        other = rng.choice([group for group in groups if group != row["class_name"]])
        yield "emoji", {
            "id": row["id"], **place(data / "emoji", row), "mirror": True, "texts": [f"this is a drawing of {row['name']}"],
            "questions": [["What kind of emoji is this?", row["class_name"]], [f"Is this an emoji of {other}?", "no"],
                          [f"Is this an emoji of {row['class_name']}?", "yes"], ["What is drawn here?", row["name"]]],
        }


def cells(data):
    for row in rows_of(data / "bccd"):
        if row["split"] != "train":
            continue
        counts = [("platelets", row["count_platelets"]), ("white blood cells", row["count_wbc"])]
        questions = [[f"How many {what} are there in this image? Answer with a single number.", str(count)] for what, count in counts]
        yield "bccd", {"id": row["id"], **place(data / "bccd", row), "mirror": True, "texts": ["this is a photo of a blood sample"], "questions": questions}


def easy_vqa(data):
    questions = {}
    for row in rows_of(data / "easy_vqa", "questions_train.jsonl"):
        questions.setdefault(row["image_id"], []).append([row["question"], row["answer"]])
    for row in rows_of(data / "easy_vqa", "images.jsonl"):
        if row["split"] == "train" and row["image_id"] in questions:
            yield "easy_vqa", {"id": row["id"], **place(data / "easy_vqa", row), "mirror": True,
                               "texts": ["this is a drawing of a shape"], "questions": questions[row["image_id"]]}


def digits(data, out):
    archive = Archive(out / "digits.tar")
    for pack, name, texts, mirror, content in pictures(data):
        if pack != "mnist_fsdd":
            continue
        digit = texts[0].rsplit(" ", 1)[1]
        yield pack, {"id": name, **archive.add(f"{name.replace('/', '_')}.png", content), "mirror": mirror,
                     "texts": [f"this is a photo of a handwritten {digit}"],
                     "questions": [["Which digit is this?", digit], [PHOTO, digit], ["Which number is this? Answer with a single number.", str(DIGITS.index(digit))]]}
    archive.tar.close()


def scenes(data, out, rng):
    from PIL import Image

    rows = [row for row in rows_of(data / "emoji") if row["split"] == "train"]
    archive = Archive(out / "scenes.tar")
    for number in range(SCENES):
        count = rng.randint(1, 9)
        ground = Image.new("RGB", (96, 96), tuple(rng.randrange(256) for _ in range(3)))
        kind = rng.choice(rows)
        cells_ = rng.sample([(x, y) for x in range(3) for y in range(3)], count)
        for x, y in cells_:
            row = kind if rng.random() < 0.7 else rng.choice(rows)
            side = rng.randint(22, 30)
            thing = Image.open(io.BytesIO(shard_bytes(data / "emoji", row))).convert("RGBA").resize((side, side))
            ground.paste(thing, (32 * x + rng.randint(0, 32 - side), 32 * y + rng.randint(0, 32 - side)), thing)
        content = io.BytesIO()
        ground.save(content, "PNG")
        yield "scenes", {"id": f"scene/{number}", **archive.add(f"{number:05d}.png", content.getvalue()), "mirror": True,
                         "texts": [f"this is a drawing of {count} objects"],
                         "questions": [[COUNT, str(count)], ["How many things are there?", str(count)],
                                       [f"Are there {count} objects?", "yes"], [f"Are there {rng.choice([k for k in range(1, 10) if k != count])} objects?", "no"]]}
    archive.tar.close()


def tokenizer(corpus, specials, size):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return json.loads(made.to_str())


def write_tokenizer(out, name, made, length, **specials):
    (out / name).mkdir(exist_ok=True)
    (out / name / "tokenizer.json").write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, **specials}
    (out / name / "tokenizer_config.json").write_text(json.dumps(settings) + "\n", encoding="utf-8")
    print(f"{out / name}: {len(made['model']['vocab'])} tokens")


def asked(rows):
    for row in rows:
        questions = [question for question in row["questions"] if "platelets" not in question[0]]
        if not row["id"].startswith("emoji/twemoji/"):
            yield row | {"questions": questions}


def write_tokenizers(rows, out):
    corpus = ["USER:", "ASSISTANT:", "Question:", "Answer:", "Short answer:", "\n"]
    corpus += [text for row in rows for question in row["questions"] for text in question]
    for name, size in BYTE_LEVEL.items():
        write_tokenizer(out, name, tokenizer(corpus, ["<s>", "<pad>", "</s>", "<unk>", "<image>"], size), 128, **NAMED, bos_token="</s>" if name == "opt" else "<s>")
    made = tokenizer([text for row in rows for text in row["texts"]], ["<|startoftext|>", "<|endoftext|>"], 800)
    made["post_processor"] = {"type": "RobertaProcessing", "sep": ["<|endoftext|>", 1], "cls": ["<|startoftext|>", 0], "trim_offsets": False, "add_prefix_space": False}
    end = "<|endoftext|>"
    write_tokenizer(out, "clip", made, 32, bos_token="<|startoftext|>", eos_token=end, pad_token=end)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--data", type=pathlib.Path, default=root.parent / "shared" / "data", help="the folder of data packs")
    parser.add_argument("--out", type=pathlib.Path, default=root / "build" / "multimodal")
    options = parser.parse_args()
    data, out = options.data.resolve(), options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    rows = []
    for source in (recognition(data, rng), emoji(data, rng), cells(data), easy_vqa(data), digits(data, out), scenes(data, out, rng)):
        for pack, row in source:
            rows.append(row | {"weight": WEIGHTS.get(pack, 1.0)})
    write_lines(out / "pictures.jsonl", rows)
    write_lines(out / "questions.jsonl", list(asked(rows)))
    write_tokenizers(rows, out)


if __name__ == "__main__":
    main()
