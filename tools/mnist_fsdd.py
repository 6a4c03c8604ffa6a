#!/usr/bin/env python3
"""Writes manifests of digits seen and heard from MNIST's files and FSDD's recordings, and the pictures that they name.

usage: tools/mnist_fsdd.py SOURCE OUT

SOURCE is a folder with t10k-images-idx3-ubyte.gz, av_pairs.jsonl (which picture goes with which recording), fsdd_manifest.jsonl and the
archives that it names. OUT gets train.jsonl, valid.jsonl and test.jsonl, whose rows have "image" (the digit, a PNG), "audio" (the
recording, where SOURCE has it), "image_pair" (its spectrogram, a PNG: for those who have a picture tower and no sound tower) and "label".
"""

import argparse
import cmath
import gzip
import io
import json
import math
import os
import struct
import sys
import wave
import zlib

WINDOW, SIDE, FLOOR = 256, 64, 1e-4  # samples of a spectrogram's window (32 ms), its width and height in pixels, its quietest power


def fail(message):
    sys.exit(f"mnist_fsdd.py: {message}")


def write(path, data):
    """Complete or not there at all."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def png(width, height, grey):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    lines = b"".join(b"\0" + grey[y * width:(y + 1) * width] for y in range(height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def read_digits(path):
    with gzip.open(path) as file:
        data = file.read()
    magic, count, height, width = struct.unpack(">4I", data[:16])
    if magic != 0x803 or len(data) != 16 + count * height * width:
        fail(f"{path}: not a file of MNIST pictures")
    return [data[16 + i * height * width:16 + (i + 1) * height * width] for i in range(count)], width, height


def samples_of(source, row):
    with open(os.path.join(source, row["shard"]), "rb") as file:
        file.seek(row["offset"])
        data = file.read(row["size"])
    with wave.open(io.BytesIO(data)) as sound:
        if sound.getsampwidth() != 2 or sound.getnchannels() != 1:
            fail(f"{row['id']}: expected one channel of 16 bits")
        raw = sound.readframes(sound.getnframes())
    return [value / 32768 for value in struct.unpack(f"<{len(raw) // 2}h", raw)]


TURNS = {size: [cmath.exp(-2j * math.pi * k / size) for k in range(size // 2)] for size in (2 ** n for n in range(1, 9))}
HANN = [0.5 - 0.5 * math.cos(2 * math.pi * i / WINDOW) for i in range(WINDOW)]


def fourier(values):
    """Of a power of two, at most WINDOW."""
    size = len(values)
    if size == 2:
        return [values[0] + values[1], values[0] - values[1]]
    even, odd = fourier(values[::2]), fourier(values[1::2])
    odd = [turn * value for turn, value in zip(TURNS[size], odd)]
    return [a + b for a, b in zip(even, odd)] + [a - b for a, b in zip(even, odd)]


def powers(first, second):
    """Of two windows at once, one as the real and one as the imaginary part, up to half the rate."""
    both = fourier([complex(a, b) for a, b in zip(first, second)])
    half = len(both) // 2
    mirror = [both[0], *both[:half:-1]]
    one = [abs(a + b.conjugate()) ** 2 / 4 for a, b in zip(both[:half], mirror)]
    other = [abs(a - b.conjugate()) ** 2 / 4 for a, b in zip(both[:half], mirror)]
    return one, other


def spectrogram(samples):
    """SIDE windows spread over the recording; frequencies up to half the rate in SIDE bands, high ones on top; logarithm of the power."""
    samples = samples + [0.0] * max(0, WINDOW - len(samples))
    begins = [column * (len(samples) - WINDOW) // (SIDE - 1) for column in range(SIDE)]
    windows = [[sample * weight for sample, weight in zip(samples[begin:begin + WINDOW], HANN)] for begin in begins]
    bands = WINDOW // 2 // SIDE
    columns = []
    for pair in range(0, SIDE, 2):
        for power in powers(windows[pair], windows[pair + 1]):
            columns.append([math.log(FLOOR + sum(power[b * bands:(b + 1) * bands])) for b in range(SIDE)])
    least = math.log(FLOOR)
    largest = max(max(column) for column in columns)
    scale = 255 / max(largest - least, 1e-9)
    return bytes(round((columns[x][SIDE - 1 - y] - least) * scale) for y in range(SIDE) for x in range(SIDE))


def rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder with MNIST's test pictures, FSDD's archives and the list of pairs")
    parser.add_argument("out", help="folder for manifests and pictures")
    arguments = parser.parse_args()
    source, out = os.path.abspath(arguments.source), arguments.out
    try:
        digits, width, height = read_digits(os.path.join(source, "t10k-images-idx3-ubyte.gz"))
        recordings = {row["id"]: row for row in rows(os.path.join(source, "fsdd_manifest.jsonl"))}
        pairs = rows(os.path.join(source, "av_pairs.jsonl"))
        for folder in ("digits", "spectrograms"):
            os.makedirs(os.path.join(out, folder), exist_ok=True)
        made, splits = {}, {"train": [], "val": [], "test": []}
        for pair in pairs:
            recording = recordings[pair["fsdd_id"]]
            if recording["label"] != pair["label"]:
                fail(f"{pair['id']}: the recording says another digit")
            picture = f"digits/{pair['mnist_index']:05}.png"
            write(os.path.join(out, picture), png(width, height, digits[pair["mnist_index"]]))
            if recording["id"] not in made:
                made[recording["id"]] = f"spectrograms/{recording['id'].split('/')[-1]}.png"
                write(os.path.join(out, made[recording["id"]]), png(SIDE, SIDE, spectrogram(samples_of(source, recording))))
            sound = os.path.join(os.path.relpath(source, out), recording["shard"])
            splits[pair["split"]].append({"id": pair["id"], "image": picture, "image_pair": made[recording["id"]],
                                          "audio": f"{sound}#{recording['member']}", "label": pair["label"]})
        for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
            text = "".join(json.dumps(row) + "\n" for row in splits[split])
            write(os.path.join(out, f"{name}.jsonl"), text.encode())
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    except (KeyError, IndexError, ValueError) as error:
        fail(f"{source}: {error}")
    print(f"{out}: " + ", ".join(f"{split} {len(members)} pairs" for split, members in splits.items()))


if __name__ == "__main__":
    main()
