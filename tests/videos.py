"""Small AVI files of JPEG frames, written by hand, so that no encoder of videos is needed."""

import io
import struct


def chunk(name, data):
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def write_avi(path, pictures, rate=10, sound=None, sound_rate=16000):
    """Motion JPEG; `pictures` are PIL images of one size. `sound`: samples of one channel between -1 and 1, written as 16-bit integers."""
    width, height = pictures[0].size
    frames = []
    for picture in pictures:
        out = io.BytesIO()
        picture.convert("RGB").save(out, "JPEG", quality=95, subsampling=0)
        frames.append(out.getvalue())
    largest = max(map(len, frames))
    main = struct.pack("<14I", 1_000_000 // rate, largest * rate, 0, 0x10, len(frames), 0, 1 if sound is None else 2, largest, width, height, 0, 0, 0, 0)
    stream = struct.pack("<4s4sIHHIIIIIIIIhhhh", b"vids", b"MJPG", 0, 0, 0, 0, 1, rate, 0, len(frames), largest, 10000, 0, 0, 0, width, height)
    bitmap = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", width * height * 3, 0, 0, 0, 0)
    streams = chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", bitmap))
    pieces = [(b"00dc", frame) for frame in frames]
    if sound is not None:
        samples = struct.pack(f"<{len(sound)}h", *(round(32768 * float(value)) for value in sound))
        wave = struct.pack("<HHIIHH", 1, 1, sound_rate, 2 * sound_rate, 2, 16)
        stream = struct.pack("<4s4sIHHIIIIIIIIhhhh", b"auds", b"\0" * 4, 0, 0, 0, 0, 1, sound_rate, 0, len(sound), len(samples), 10000, 2, 0, 0, 0, 0)
        streams += chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", wave))
        pieces.insert(1, (b"01wb", samples))
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + streams)
    movie, index, at = b"movi", b"", 4
    for name, piece in pieces:
        index += struct.pack("<4sIII", name, 0x10, at, len(piece))
        movie += chunk(name, piece)
        at = len(movie)
    body = b"AVI " + header + chunk(b"LIST", movie) + chunk(b"idx1", index)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path
