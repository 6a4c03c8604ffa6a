"""Made-up pictures with labels for benchmarks of models whose weights are random, too."""

import json
import random


def draw_pictures(folder, count, labels, side=224):
    """`count` pictures of one colour each and FOLDER/pictures.jsonl, which gives them the labels in turn."""
    from PIL import Image

    draw, rows = random.Random(0), []
    for number in range(count):
        Image.new("RGB", (side, side), tuple(draw.randrange(256) for _ in range(3))).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "label": labels[number % len(labels)]})
    (folder / "pictures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
