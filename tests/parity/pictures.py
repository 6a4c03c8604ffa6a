"""Pictures in every mode that mmtune reads, made by Pillow or byte by byte, and the drivers of mmtune_image_tool."""

import io
import itertools
import os
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("MMTUNE_BUILD", ROOT / "build"))
SHARED = Path(os.environ.get("MMTUNE_SHARED", ROOT.parent / "shared"))
TOOL = BUILD / "mmtune_image_tool"


def scene(width, height, seed=0, channels=3):
    """A picture with smooth parts, edges and noise: what codecs and filters treat differently."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (max(height // 9, 2), max(width // 9, 2), channels), dtype=np.uint8)
    planes = [np.asarray(Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC)) for c in range(channels)]
    picture = np.stack(planes, -1).astype(int) + random.integers(-12, 13, (height, width, channels))
    picture[height // 3 : height // 2, width // 4 : width // 2] = random.integers(0, 256, channels)
    return np.clip(picture, 0, 255).astype(np.uint8)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(width, height, depth, colour_type, rows, extra=b"", after=b"", interlaced=False):
    """A PNG from packed rows; interlaced pictures take bytes that are whole pixels (depth * channels a multiple of 8)."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, int(interlaced))
    if interlaced:
        channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
        size = depth * channels // 8
        grid = np.frombuffer(b"".join(rows), np.uint8).reshape(height, width, size)
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
        data = b""
        for y, x, dy, dx in passes:
            part = grid[y::dy, x::dx]
            if part.size:
                data += b"".join(b"\0" + row.tobytes() for row in part)
    else:
        data = b"".join(b"\0" + row for row in rows)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + after + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def encode(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    return exif.tobytes()


def big_endian_exif(orientation, type_code=3):
    value = struct.pack(">HH", orientation, 0) if type_code == 3 else struct.pack(">I", orientation)
    return b"Exif\0\0MM\0\x2a\0\0\0\x08" + struct.pack(">H", 1) + struct.pack(">HHI", 0x0112, type_code, 1) + value + b"\0\0\0\0"


def jpegs():
    for (width, height), subsampling, progressive in itertools.product(
        [(1, 1), (7, 3), (16, 16), (33, 47), (160, 121)], ["4:4:4", "4:2:2", "4:2:0"], [False, True]
    ):
        image = Image.fromarray(scene(width, height, width + height))
        name = f"jpeg_{width}x{height}_{subsampling.replace(':', '')}{'_progressive' if progressive else ''}"
        yield name + ".jpg", encode(image, "JPEG", quality=85, subsampling=subsampling, progressive=progressive)
    image = Image.fromarray(scene(61, 45, 3))
    yield "jpeg_optimised.jpg", encode(image, "JPEG", quality=30, optimize=True)
    yield "jpeg_restarts.jpg", encode(image, "JPEG", restart_marker_blocks=2)
    yield "jpeg_stored_as_rgb.jpg", encode(image, "JPEG", keep_rgb=True)
    yield "jpeg_grey.jpg", encode(image.convert("L"), "JPEG")
    yield "jpeg_grey_progressive.jpg", encode(image.convert("L"), "JPEG", progressive=True)
    ink = Image.fromarray(scene(61, 45, 4, channels=4), "CMYK")
    yield "jpeg_cmyk.jpg", encode(ink, "JPEG", quality=90)
    yield "jpeg_cmyk_subsampled.jpg", encode(ink, "JPEG", quality=90, subsampling="4:2:0", progressive=True)
    # The same four components, said to be YCCK by the Adobe marker.
    adobe = encode(ink, "JPEG", quality=90)
    at = adobe.find(b"Adobe")
    if at > 0:
        yield "jpeg_ycck.jpg", adobe[: at + 11] + b"\x02" + adobe[at + 12 :]
    yield "jpeg_without_end.jpg", encode(image, "JPEG")[:-2]
    yield "jpeg_with_tail.jpg", encode(image, "JPEG") + b"something behind the picture"
    yield "jpeg_comment.jpg", encode(image, "JPEG", comment=b"x" * 3000)
    damaged = bytearray(encode(Image.fromarray(scene(160, 121, 9)), "JPEG"))
    middle = damaged.find(b"\xff\xda") + (len(damaged) - damaged.find(b"\xff\xda")) // 2
    damaged[middle : middle + 6] = bytes([0x12, 0x34, 0x56, 0x78, 0x9A, 0xBC])
    yield "jpeg_damaged_data.jpg", bytes(damaged)


def oriented():
    image = Image.fromarray(scene(40, 25, 5))
    for orientation in range(0, 10):
        exif = exif_of(orientation)
        yield f"exif_{orientation}.jpg", encode(image, "JPEG", exif=exif)
        yield f"exif_{orientation}.png", encode(image, "PNG", exif=exif)
        yield f"exif_{orientation}.webp", encode(image, "WEBP", lossless=True, exif=exif)
        yield f"exif_big_endian_{orientation}.jpg", encode(image, "JPEG", exif=big_endian_exif(orientation))
    yield "exif_long.jpg", encode(image, "JPEG", exif=big_endian_exif(6, type_code=4))
    yield "exif_byte.jpg", encode(image, "JPEG", exif=big_endian_exif(6, type_code=1))
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
    yield "xmp_attribute.jpg", encode(image, "JPEG", xmp=xmp % 8)
    yield "xmp_element.jpg", encode(image, "JPEG", xmp=b"<x><tiff:Orientation>3</tiff:Orientation></x>")
    yield "xmp_beside_exif.jpg", encode(image, "JPEG", xmp=xmp % 8, exif=exif_of(6))
    yield "xmp.webp", encode(image, "WEBP", lossless=True, xmp=xmp % 5)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", (xmp % 7).decode())
    yield "xmp.png", encode(image, "PNG", pnginfo=info)
    profile = "\nexif\n%8d\n%s\n" % (len(exif_of(6)), exif_of(6).hex())
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", profile, zip=True)
    yield "raw_profile.png", encode(image, "PNG", pnginfo=info)
    rows = [row.tobytes() for row in scene(40, 25, 5)]
    yield "exif_after_data.png", raw_png(40, 25, 8, 2, rows, after=chunk(b"eXIf", exif_of(6)[6:]))


def pngs():
    for width, height in [(1, 1), (5, 3), (64, 33), (131, 70)]:
        image = Image.fromarray(scene(width, height, width))
        palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=200)
        few = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=13)
        four = scene(width, height, 8, channels=4)
        yield f"png_rgb_{width}.png", encode(image, "PNG")
        yield f"png_grey_{width}.png", encode(image.convert("L"), "PNG")
        yield f"png_bits_{width}.png", encode(image.convert("1"), "PNG")
        yield f"png_rgba_{width}.png", encode(Image.fromarray(four, "RGBA"), "PNG")
        yield f"png_la_{width}.png", encode(Image.fromarray(np.ascontiguousarray(four[..., :2]), "LA"), "PNG")
        yield f"png_palette_{width}.png", encode(palette, "PNG")
        yield f"png_palette4_{width}.png", encode(few, "PNG", bits=4)
        yield f"png_palette_one_clear_{width}.png", encode(palette, "PNG", transparency=3)
        yield f"png_palette_clear_{width}.png", encode(palette, "PNG", transparency=bytes(range(0, 200, 5)))
        yield f"png_rgb_clear_{width}.png", encode(image, "PNG", transparency=tuple(int(v) for v in np.asarray(image)[0, 0]))
        yield f"png_grey_clear_{width}.png", encode(image.convert("L"), "PNG", transparency=0)
        random = np.random.default_rng(width)
        wide = random.integers(0, 65536, (height, width, 4), dtype=np.uint16)
        low = random.integers(0, 300, (height, width), dtype=np.uint16)
        yield f"png_grey16_{width}.png", encode(Image.fromarray(np.ascontiguousarray(wide[..., 0])), "PNG")
        yield f"png_grey16_low_{width}.png", encode(Image.fromarray(low), "PNG")
        for interlaced in (False, True):
            suffix = f"{'_interlaced' if interlaced else ''}_{width}.png"
            for name, depth, colour_type, channels in [
                ("rgb16", 16, 2, 3), ("rgba16", 16, 6, 4), ("la16", 16, 4, 2), ("grey16", 16, 0, 1),
            ]:  # fmt: skip
                rows = [row[:, :channels].astype(">u2").tobytes() for row in wide]
                yield f"png_raw_{name}" + suffix, raw_png(width, height, depth, colour_type, rows, interlaced=interlaced)
            for name, colour_type, channels in [("rgb", 2, 3), ("rgba", 6, 4), ("la", 4, 2), ("grey", 0, 1), ("palette", 3, 1)]:
                rows = [(row[:, :channels] >> 8).astype(np.uint8).tobytes() for row in wide]
                extra = chunk(b"PLTE", random.bytes(3 * 256)) if colour_type == 3 else b""
                yield f"png_raw_{name}" + suffix, raw_png(width, height, 8, colour_type, rows, extra, interlaced=interlaced)
        for depth in (1, 2, 4):
            rows = [random.bytes((width * depth + 7) // 8) for _ in range(height)]
            yield f"png_grey_{depth}bit_{width}.png", raw_png(width, height, depth, 0, rows)
            yield f"png_palette_{depth}bit_{width}.png", raw_png(width, height, depth, 3, rows, chunk(b"PLTE", random.bytes(3 << depth)))
            # Fewer colours than the depth can index: the rest is black.
            yield f"png_palette_short_{depth}bit_{width}.png", raw_png(width, height, depth, 3, rows, chunk(b"PLTE", random.bytes(3)))
    rows = [row.tobytes() for row in scene(20, 9, 2)]
    for name, data in [(b"gAMA", struct.pack(">I", 45455)), (b"sBIT", b"\5\5\5"), (b"bKGD", b"\0\1\0\1\0\1"), (b"tIME", b"\x07\xe8\1\1\1\1\1")]:
        yield f"png_with_{name.decode()}.png", raw_png(20, 9, 8, 2, rows, extra=chunk(name, data))
    frames = [Image.fromarray(scene(24, 18, seed)) for seed in range(3)]
    yield "png_animated.png", encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    yield "png_animated_default.png", encode(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True)


def webps():
    for width, height in [(1, 1), (7, 5), (64, 48), (131, 70)]:
        image = Image.fromarray(scene(width, height, width))
        clear = Image.fromarray(scene(width, height, 8, channels=4), "RGBA")
        holes = np.array(clear)
        holes[..., 3][::3] = 0
        for lossless, exact in itertools.product([False, True], [False, True]):
            name = f"{'lossless' if lossless else 'lossy'}{'_exact' if exact else ''}_{width}.webp"
            yield "webp_" + name, encode(image, "WEBP", lossless=lossless, exact=exact)
            yield "webp_alpha_" + name, encode(clear, "WEBP", lossless=lossless, exact=exact)
            yield "webp_holes_" + name, encode(Image.fromarray(holes, "RGBA"), "WEBP", lossless=lossless, exact=exact)
        yield f"webp_low_quality_{width}.webp", encode(image, "WEBP", quality=5, method=6)
    frames = [Image.fromarray(scene(32, 24, seed)) for seed in range(3)]
    yield "webp_animated.webp", encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    frames = [Image.fromarray(scene(32, 24, seed, channels=4), "RGBA") for seed in range(3)]
    yield "webp_animated_clear.webp", encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    # A first frame that covers a part of the canvas: animation chunks by hand around Pillow's lossless bitstream.
    inner = encode(Image.fromarray(scene(10, 8, 1)), "WEBP", lossless=True)[12:]

    def three(value):
        return struct.pack("<I", value)[:3]

    def riff(name, data):
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    frame = three(4 // 2) + three(6 // 2) + three(9) + three(7) + three(100) + b"\0" + inner
    body = riff(b"VP8X", b"\x02\0\0\0" + three(39) + three(29)) + riff(b"ANIM", b"\xff\xff\xff\xff\0\0") + riff(b"ANMF", frame)
    yield "webp_partial_frame.webp", b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def everything():
    return itertools.chain(jpegs(), oriented(), pngs(), webps())



def run_tool(arguments, files, dtype=np.uint8):
    """One array [height, width, 3] (or [3, height, width] floats), or the refusal's text, a file."""
    if not TOOL.exists():
        pytest.fail(f"{TOOL} is not built; build it with: make build")
    listing = "".join(f"{file}\n" for file in files)
    output = subprocess.run([TOOL, *map(str, arguments)], input=listing.encode(), capture_output=True)
    assert output.returncode == 0, output.stderr.decode()
    data, at, results = output.stdout, 0, []
    for _ in files:
        end = data.index(b"\n", at)
        line = data[at:end].decode()
        at = end + 1
        if line.startswith("error "):
            results.append(line[6:])
            continue
        height, width = map(int, line.split())
        count = height * width * 3 * np.dtype(dtype).itemsize
        shape = (height, width, 3) if dtype == np.uint8 else (3, height, width)
        results.append(np.frombuffer(data[at : at + count], dtype).reshape(shape))
        at += count
    assert at == len(data)
    return results
