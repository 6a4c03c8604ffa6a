"""Small AVI files of JPEG frames, written by hand, so that no encoder of videos is needed."""

import io
import struct


def chunk(name, data):
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def write_avi(path, pictures, rate=10):
    """Motion JPEG; `pictures` are PIL images of one size."""
    width, height = pictures[0].size
    frames = []
    for picture in pictures:
        out = io.BytesIO()
        picture.convert("RGB").save(out, "JPEG", quality=95, subsampling=0)
        frames.append(out.getvalue())
    largest = max(map(len, frames))
    main = struct.pack("<14I", 1_000_000 // rate, largest * rate, 0, 0x10, len(frames), 0, 1, largest, width, height, 0, 0, 0, 0)
    stream = struct.pack("<4s4sIHHIIIIIIIIhhhh", b"vids", b"MJPG", 0, 0, 0, 0, 1, rate, 0, len(frames), largest, 10000, 0, 0, 0, width, height)
    bitmap = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", width * height * 3, 0, 0, 0, 0)
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", bitmap)))
    movie, index, at = b"movi", b"", 4
    for frame in frames:
        index += struct.pack("<4sIII", b"00dc", 0x10, at, len(frame))
        movie += chunk(b"00dc", frame)
        at = len(movie)
    body = b"AVI " + header + chunk(b"LIST", movie) + chunk(b"idx1", index)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path
