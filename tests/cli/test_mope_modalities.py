"""MoPE with sounds, videos and three modalities: trained, evaluated by what examples have, reloaded, explained, refused."""

import json
import random
import re
import tomllib
from pathlib import Path

import pytest
from sounds import make_wav2vec2, tone, write_wav
from test_mope import RECIPES, Page
from training_support import COLOURS, PROGRAM, make_image_model, make_picture, make_text_model, mmtune, trained_files, write_jsonl, write_recipe
from videos import write_avi

PITCHES = {"red": 300, "green": 900, "blue": 2200}
DECODES = (PROGRAM.parent / "libmmtune_ffmpeg.so").exists()


def frames_of(colour, rng, count=5):
    from PIL import Image

    base = COLOURS[colour]
    return [Image.new("RGB", (24, 20), tuple(min(255, c + rng.randint(0, 20)) for c in base)) for _ in range(count)]


def make_triples(folder, count, seed, shares=None, video="folder"):
    """Texts, tones and videos; do all three tell the same colour? `shares` of the examples have a modality."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    shares = {"audio": 1.0, "video": 1.0, **(shares or {})}
    rows = []
    for i in range(count):
        colour = list(COLOURS)[i % 3]
        row = {"id": f"{seed}-{i}", "label": colour, "text": f"the box is {rng.choice(list(COLOURS))}"}
        if rng.random() < shares["audio"]:
            row["audio"] = write_wav(folder / f"{i}.wav", tone(PITCHES[colour], rng.uniform(0.1, 0.2), seed=i)).name
        if rng.random() < shares["video"]:
            pictures = frames_of(colour, rng)
            if video == "file":
                row["video"] = write_avi(folder / f"{i}.avi", pictures).name
            else:
                (folder / f"clip{i}").mkdir(exist_ok=True)
                for j, picture in enumerate(pictures):
                    picture.save(folder / f"clip{i}" / f"{j:03}.png")
                row["video"] = f"clip{i}"
        rows.append(row)
    return write_jsonl(folder / "manifest.jsonl", rows)


def make_roberta(folder, seed=4):
    import torch
    from bpe_models import roberta_like
    from transformers import RobertaConfig, RobertaModel

    torch.manual_seed(seed)
    made = roberta_like([f"the box is {colour}" for colour in COLOURS] * 50, size=400)
    config = RobertaConfig(vocab_size=len(made["model"]["vocab"]), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
                           max_position_embeddings=40, pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=1, initializer_range=0.2)
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(made))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer", "model_max_length": 36}))


def make_swin(folder, seed=5):
    import torch
    from transformers import SwinConfig, SwinModel, ViTImageProcessor

    torch.manual_seed(seed)
    SwinModel(SwinConfig(image_size=16, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, initializer_range=0.2),
              add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modalities")
    make_text_model(folder / "bert")
    make_image_model(folder / "vit", seed=1)
    make_wav2vec2(folder / "wav2vec2")
    make_wav2vec2(folder / "narrow", hidden_size=16, seed=2)
    make_wav2vec2(folder / "stable", seed=3, do_stable_layer_norm=True, feat_extract_norm="layer")
    make_roberta(folder / "roberta")
    make_swin(folder / "swin")
    make_triples(folder / "triples", 36, 1)
    make_triples(folder / "lacking", 36, 2, shares={"audio": 0.6, "video": 0.6})
    return folder


def recipe_of(world, path, main, condition, further=(), data="triples", expert=None, others=(), **sections):
    backbone = {"main": world / main, "condition": world / condition, "frames": 3}
    if condition == "vit":
        backbone["condition_input"] = "video"
    if further:
        backbone["further"] = [{"model": world / model, **({"input": "video"} if model == "vit" else {})} for model in further]
    mope = {"method": "mope", "experts": 3, "prompt_length": 2, "mapper_width": 8, **(expert or {})}
    train = {"epochs": 2, "batch": 9, "lr": 1e-2, "threads": 1, **sections.pop("train", {})}
    return write_recipe(path, backbone=backbone, expert=[mope, *others], data={"train": world / data / "manifest.jsonl"}, train=train, **sections)


def evaluate(run, data, *changes):
    return json.loads(mmtune("eval", run, *changes, "--data", data, "--json", check=0).stdout)


@pytest.mark.parametrize(("main", "condition"), [("bert", "wav2vec2"), ("wav2vec2", "bert"), ("stable", "vit"), ("wav2vec2", "narrow")])
def test_sounds_condition_and_are_conditioned(world, tmp_path, main, condition):
    prompts = {"method": "prompt", "tower": "condition", "deep": True, "length": 2}
    recipe = recipe_of(world, tmp_path / "r.toml", main, condition, others=[prompts])
    manifest = world / "triples" / "manifest.jsonl"
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    assert evaluate(tmp_path / "run", manifest)["examples"] == 36
    answers = mmtune("predict", tmp_path / "run", "--data", manifest, check=0).stdout
    assert len(answers.splitlines()) == 36
    mmtune("train", recipe, "--out", tmp_path / "again", check=0)
    assert trained_files(tmp_path / "run") == trained_files(tmp_path / "again")


@pytest.mark.parametrize("condition", ["bert", "roberta", "vit", "swin", "wav2vec2"])
@pytest.mark.parametrize("main", ["roberta", "swin"])
def test_any_encoder_conditions_any_other(world, tmp_path, main, condition):
    manifest = tmp_path / "m.jsonl"
    rows = [json.loads(line) for line in (world / "triples" / "manifest.jsonl").read_text().splitlines()][:12]
    for row in rows:
        row["audio"], row["text_pair"] = str(world / "triples" / row["audio"]), row["text"]
        row["image"] = row["image_pair"] = str(world / "triples" / row.pop("video") / "000.png")
    write_jsonl(manifest, rows)
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / main, "condition": world / condition}, data={"train": manifest},
                          expert=[{"method": "mope", "experts": 2, "prompt_length": 1, "mapper_width": 4},
                                  {"method": "prompt", "tower": "condition", "deep": True, "length": 1}],
                          train={"steps": 2, "batch": 6, "threads": 1})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    assert evaluate(tmp_path / "run", manifest)["examples"] == 12


def test_a_frozen_sound_tower_is_asked_once(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml", "bert", "wav2vec2")
    cache = str(tmp_path / "cache")
    mmtune("train", recipe, "--out", tmp_path / "a", check=0, cache=cache)
    second = mmtune("train", recipe, "--out", tmp_path / "b", check=0, cache=cache)
    assert "features of the condition tower: 36 of 36 inputs kept" in second.stderr
    explained = mmtune("explain", tmp_path / "b", "--data", world / "triples" / "manifest.jsonl", "--out", tmp_path / "x.html", check=0, cache=cache)
    assert "36 of 36 inputs kept" in explained.stderr


@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_three_modalities(world, tmp_path, combine):
    recipe = recipe_of(world, tmp_path / "r.toml", "bert", "wav2vec2", further=["vit"], expert={"combine": combine}, train={"epochs": 6})
    run = tmp_path / "run"
    mmtune("train", recipe, "--out", run, check=0)
    record = json.loads((run / "run.json").read_text())
    assert [one["tower"] for one in record["backbones"]] == ["main", "condition", "condition2"]
    config = json.loads((run / "expert" / "adapter_config.json").read_text())
    assert config["complementary_width"] == [32, 32] and config["combine"] == combine
    result = evaluate(run, world / "triples" / "manifest.jsonl")
    # The text says nothing; what the others say must have reached the head.
    assert result["metrics"]["accuracy"]["value"] > 0.6
    done = mmtune("predict", run, "--text", "the box is red", "--audio", world / "triples" / "0.wav", "--video", world / "triples" / "clip0", check=0)
    assert any(colour in done.stdout for colour in COLOURS)


def test_any_of_three_may_be_missing(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml", "bert", "wav2vec2", further=["vit"], data="lacking", expert={"modality_dropout": 0.2})
    run = tmp_path / "run"
    mmtune("train", recipe, "--out", run, check=0)
    assert json.loads((run / "run.json").read_text())["learned_absent"] == [False, True, True]
    patterns = evaluate(run, world / "lacking" / "manifest.jsonl")["patterns"]
    assert set(patterns) == {"main + condition + condition2", "main + condition", "main + condition2", "main only"}
    assert sum(pattern["examples"] for pattern in patterns.values()) == 36
    mmtune("predict", run, "--text", "the box is red", check=0)


def test_a_missing_sound_without_a_stand_in(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml", "bert", "vit", further=["wav2vec2"], train={"epochs": 1})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    done = mmtune("eval", tmp_path / "run", "--data", world / "lacking" / "manifest.jsonl", check=1)
    assert 'lacks what the tower "condition' in done.stderr


def test_three_towers_fused_late(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml", "bert", "wav2vec2", further=["vit"], expert={"method": "linear"}, head={"fusion": "concat"})
    text = recipe.read_text()
    for key in ("experts", "prompt_length", "mapper_width"):
        text = re.sub(rf"^{key} = .*\n", "", text, flags=re.MULTILINE)
    recipe.write_text(text)
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    assert evaluate(tmp_path / "run", world / "triples" / "manifest.jsonl")["examples"] == 36


def test_refusals_of_three(world, tmp_path):
    def refused(recipe, *changes, code=2):
        done = mmtune("train", recipe, "--out", tmp_path / "x", *changes, check=code)
        assert done.stderr.count("mmtune: error: ") == 1
        return done.stderr

    three = recipe_of(world, tmp_path / "r.toml", "bert", "narrow", further=["vit"], expert={"combine": "sum"})
    assert "not of one width" in refused(three)
    assert "further towers without a second one" in refused(three, "backbone.condition=")
    assert "backbone.further" in refused(three, "backbone.further.0.model=")
    assert "video" in refused(recipe_of(world, tmp_path / "v.toml", "vit", "bert"), "backbone.main_input=video")


def test_another_third_tower_is_refused_by_name(world, tmp_path):
    recipe = recipe_of(world, tmp_path / "r.toml", "bert", "vit", further=["wav2vec2"], train={"epochs": 1})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    manifest = world / "triples" / "manifest.jsonl"
    done = mmtune("eval", tmp_path / "run", f"backbone.further.0.model={world / 'stable'}", "--data", manifest, check=1)
    assert "another conditioning backbone" in done.stderr and '"wav2vec2"' in done.stderr and '"stable"' in done.stderr
    done = mmtune("eval", tmp_path / "run", f"backbone.main={world / 'bert2'}", "--data", manifest, check=1)
    assert "bert2" in done.stderr
    make_text_model(tmp_path / "other", seed=5)
    done = mmtune("eval", tmp_path / "run", f"backbone.main={tmp_path / 'other'}", "--data", manifest, check=1)
    assert '"bert"' in done.stderr and "fingerprint" in done.stderr


def test_what_videos_become(world, tmp_path):
    """The largest of the frames' features, value by value: a video of one frame many times is that picture."""
    from PIL import Image

    rows = []
    for i, colour in enumerate(COLOURS):
        picture = Image.new("RGB", (16, 16), COLOURS[colour])
        picture.save(tmp_path / f"{i}.png")
        (tmp_path / f"clip{i}").mkdir()
        for j in range(4):
            picture.save(tmp_path / f"clip{i}" / f"{j}.png")
        rows.append({"id": i, "text": "a box", "image": f"{i}.png", "video": f"clip{i}", "label": colour})
    manifest = write_jsonl(tmp_path / "m.jsonl", rows)
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "vit", "main_input": "video"}, expert={"method": "linear"},
                          data={"train": manifest}, train={"steps": 3, "batch": 3, "threads": 1})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    videos = mmtune("predict", tmp_path / "run", "--data", manifest, check=0).stdout.splitlines()
    pictures = mmtune("predict", tmp_path / "run", "backbone.main_input=image", "--data", manifest, check=0).stdout.splitlines()
    for one, other in zip(videos, pictures, strict=True):
        a, b = json.loads(one), json.loads(other)
        assert a["label"] == b["label"] and a["top"][0]["score"] == pytest.approx(b["top"][0]["score"], abs=1e-5)
    cost = json.loads(mmtune("cost", recipe, "--json", check=0).stdout)
    alone = json.loads(mmtune("cost", recipe, "backbone.main_input=image", "--json", check=0).stdout)
    assert json.dumps(cost) != json.dumps(alone)


@pytest.mark.skipif(not DECODES, reason="built without FFmpeg")
def test_the_sound_of_a_video_is_that_of_a_wav(world, tmp_path):
    rows = []
    for i, colour in enumerate(COLOURS):
        wave = tone(PITCHES[colour], 0.15, seed=i)
        write_wav(tmp_path / f"{i}.wav", wave)
        write_avi(tmp_path / f"{i}.avi", frames_of(colour, random.Random(i), 2), sound=wave)
        rows.append({"id": i, "audio": f"{i}.wav", "label": colour})
    sounds = write_jsonl(tmp_path / "sounds.jsonl", rows)
    clips = write_jsonl(tmp_path / "clips.jsonl", [{**row, "audio": f"{row['id']}.avi"} for row in rows])
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "wav2vec2"}, expert={"method": "linear"}, data={"train": sounds},
                          train={"steps": 3, "batch": 3, "threads": 1})
    mmtune("train", recipe, "--out", tmp_path / "run", check=0)
    heard = mmtune("predict", tmp_path / "run", "--data", sounds, check=0).stdout
    assert heard == mmtune("predict", tmp_path / "run", "--data", clips, check=0).stdout


@pytest.mark.skipif(not DECODES, reason="built without FFmpeg")
def test_video_files(world, tmp_path):
    manifest = make_triples(tmp_path / "files", 12, 5, video="file")
    recipe = recipe_of(world, tmp_path / "r.toml", "bert", "vit", train={"epochs": 1})
    run = tmp_path / "run"
    mmtune("train", recipe, f"data.train={manifest}", "--out", run, check=0)
    # The same frames in a folder give the same answers, but for the JPEG.
    folders = make_triples(tmp_path / "folders", 12, 5)
    one = [json.loads(line) for line in mmtune("predict", run, "--data", manifest, check=0).stdout.splitlines()]
    other = [json.loads(line) for line in mmtune("predict", run, "--data", folders, check=0).stdout.splitlines()]
    for a, b in zip(one, other, strict=True):
        assert a["top"][0]["score"] == pytest.approx(b["top"][0]["score"], abs=0.03)
    # Damage is said, with the file's name.
    whole = (tmp_path / "files" / "3.avi").read_bytes()
    (tmp_path / "files" / "3.avi").write_bytes(whole[: len(whole) // 3] + b"\0" * 200)
    done = mmtune("predict", run, "--data", manifest, check=1)
    assert "3.avi" in done.stderr and "cannot be decoded" in done.stderr
    (tmp_path / "files" / "3.avi").write_bytes(b"no film")
    skipped = mmtune("predict", run, "--data", manifest, "data.on_error=skip", check=0)
    assert len(skipped.stdout.splitlines()) >= 11


def test_explain_shows_sounds(world, tmp_path):
    for main, condition in (("bert", "wav2vec2"), ("wav2vec2", "vit")):
        run = tmp_path / f"{main}-run"
        mmtune("train", recipe_of(world, tmp_path / "r.toml", main, condition), "--out", run, check=0)
        out = tmp_path / "report.html"
        mmtune("explain", run, "--data", world / "triples" / "manifest.jsonl", "--out", out, "--device", "cpu", "--weights", "f32", check=0)
        text = out.read_text(encoding="utf-8")
        page = Page()
        page.feed(re.sub(r"<path [^>]*/>", "", text))
        page.close()
        assert not page.problems and not page.open
        assert text.count('class="wave"') >= 12
        assert text.count("<img") >= 12  # the middle frame of its video
    assert mmtune("explain", run, "--data", world / "triples" / "manifest.jsonl", "--device", "nonsense", check=2).stderr


def mustard_layout(world, folder, video):
    """The published annotation file and clips, or folders of their frames and their sounds as 16 kHz WAV."""
    rng = random.Random(4)
    root = folder / "mustard"
    clips, sounds = root / "videos" / "utterances_final", root / "audios" / "utterances_final"
    clips.mkdir(parents=True)
    if video == "folder":
        sounds.mkdir(parents=True)
    rows = {}
    for i in range(340):
        key = f"{2 - i % 2}_{i}"  # not in the order of the file when sorted
        small = i < 12 or i >= 334
        rows[key] = {"utterance": f"the box is {rng.choice(list(COLOURS))}", "speaker": "RED" if i % 2 else "BLUE", "context": ["one", "two"],
                     "context_speakers": ["A", "B"], "show": "BBT", "sarcasm": i % 2 == 0}
        wave = tone(500 if i % 2 else 1500, 0.1, seed=i) if small else tone(440, 0.05)
        pictures = frames_of(list(COLOURS)[i % 3], rng, 2)
        if video == "file":
            write_avi(clips / f"{key}.mp4", pictures, sound=wave)
        else:
            write_wav(sounds / f"{key}.wav", wave)
            (clips / f"{key}.mp4").mkdir()
            for j, picture in enumerate(pictures):
                picture.save(clips / f"{key}.mp4" / f"{j}.png")
    (root / "sarcasm_data.json").write_text(json.dumps(rows))


@pytest.mark.parametrize("video", ["folder", pytest.param("file", marks=pytest.mark.skipif(not DECODES, reason="built without FFmpeg"))])
def test_mustard(world, tmp_path, video):
    mustard_layout(world, tmp_path, video)
    run = tmp_path / "run"
    sounds = [] if video == "file" else ["data.columns.audio=audios/utterances_final/{id}.wav"]
    mmtune("train", RECIPES / "mustard.toml", *sounds, "--out", run, f"backbone.main={world / 'bert'}", f"backbone.condition={world / 'wav2vec2'}",
           f"backbone.further.0.model={world / 'vit'}", "backbone.frames=2", "train.batch=4", "train.steps=2", "train.threads=1", check=0, cwd=tmp_path)
    record = json.loads((run / "run.json").read_text())
    assert record["data"]["train"]["examples"] == 334 and record["data"]["valid"]["examples"] == 6
    assert "accuracy" in record["valid"]
    recipe = tomllib.loads((RECIPES / "mustard.toml").read_text())
    assert recipe["data"]["columns"]["text"] == "{speaker}: {utterance}"
    inspected = mmtune("inspect", Path("mustard/sarcasm_data.json"), cwd=tmp_path)
    assert "340" in inspected.stdout
