"""mmtune preprocess --audio against transformers' feature extractors, and the spectrograms against transformers.audio_utils."""

import json

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file
from sounds import noise, write_wav
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

# Lengths that no hop divides; the last is shorter than what Whisper and CLAP fill up to by more than half.
SECONDS = [0.731, 1.2, 0.5003]


@pytest.fixture(scope="module", autouse=True)
def numpy_only():
    """The numpy code of AST, whose torch code needs torchaudio, is what is compared with."""
    assert not transformers.utils.is_torchaudio_available()


@pytest.fixture
def extract(succeeds, tmp_path):
    """extract(extractor, waveforms, rate) -> what mmtune makes of them as files."""

    def call(extractor, waveforms, rate=None):
        extractor.save_pretrained(tmp_path / "model")
        arguments = []
        for index, waveform in enumerate(waveforms):
            arguments += ["--audio", write_wav(tmp_path / f"{index}.wav", waveform, rate or extractor.sampling_rate)]
        succeeds("preprocess", tmp_path / "model", *arguments, "--out", tmp_path / "x.safetensors")
        return load_file(tmp_path / "x.safetensors")

    return call


def compare(got, want, atol=1e-4):
    """Names, shapes and values; `want` is transformers' BatchFeature."""
    assert sorted(got) == sorted(want.keys())
    for name, array in got.items():
        expected = np.asarray(want[name])
        assert array.shape == expected.shape, name
        np.testing.assert_allclose(array, expected.astype(array.dtype), atol=atol, rtol=0, err_msg=name)


def waveforms(rate):
    return [noise(seconds, rate, seed) for seed, seconds in enumerate(SECONDS)]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("settings", [
    {},
    {"return_attention_mask": True},
    {"do_normalize": False, "padding_value": 0.25},
    {"return_attention_mask": True, "padding_value": -1.0},
    {"sampling_rate": 8000, "return_attention_mask": True},
])
def test_wav2vec2(extract, settings, count):
    extractor = transformers.Wav2Vec2FeatureExtractor(**settings)
    sounds = waveforms(extractor.sampling_rate)[:count]
    want = extractor(sounds, sampling_rate=extractor.sampling_rate, padding=True, return_tensors="np")
    compare(extract(extractor, sounds), want, atol=1e-5)


@pytest.mark.parametrize("settings", [
    {"chunk_length": 2},
    {"chunk_length": 1, "feature_size": 128},
    {"chunk_length": 2, "n_fft": 512, "hop_length": 200, "sampling_rate": 22050},
    {"chunk_length": 1, "padding_value": 0.01},
])
def test_whisper(extract, settings):
    extractor = transformers.WhisperFeatureExtractor(**settings)
    sounds = waveforms(extractor.sampling_rate)
    compare(extract(extractor, sounds), extractor(sounds, sampling_rate=extractor.sampling_rate, return_tensors="np"))


def test_whisper_with_a_mask(extract):
    extractor = transformers.WhisperFeatureExtractor(chunk_length=2, return_attention_mask=True)
    sounds = waveforms(16000)
    compare(extract(extractor, sounds), extractor(sounds, sampling_rate=16000, return_attention_mask=True, return_tensors="np"))


@pytest.mark.parametrize("settings", [{}, {"max_length": 60, "num_mel_bins": 40}, {"do_normalize": False}, {"sampling_rate": 8000}])
def test_ast(extract, settings):
    extractor = transformers.ASTFeatureExtractor(**settings)
    sounds = waveforms(extractor.sampling_rate)
    compare(extract(extractor, sounds), extractor(sounds, sampling_rate=extractor.sampling_rate, return_tensors="np"))


@pytest.mark.parametrize("settings", [{}, {"stride": 3, "num_mel_bins": 64, "feature_size": 64}, {"padding_side": "left", "padding_value": 0.5}])
def test_seamless(extract, settings):
    extractor = transformers.SeamlessM4TFeatureExtractor(**settings)
    sounds = waveforms(16000)
    compare(extract(extractor, sounds), extractor(sounds, sampling_rate=16000, return_tensors="np"))


@pytest.mark.parametrize("truncation", ["fusion", "rand_trunc"])
@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
def test_clap(extract, truncation, padding):
    extractor = transformers.ClapFeatureExtractor(max_length_s=2, truncation=truncation, padding=padding)
    sound = noise(0.731, 48000)
    compare(extract(extractor, [sound]), extractor([sound], sampling_rate=48000, return_tensors="np"))


@pytest.mark.parametrize("scale, norm", [("htk", None), ("slaney", "slaney"), ("kaldi", None)])
def test_filter_banks_are_told_apart(extract, scale, norm):
    """The scale of each extractor against transformers' functions called by hand: banks of another scale are far away."""
    sound = noise(1.0, 16000)
    if scale == "kaldi":
        got = extract(transformers.SeamlessM4TFeatureExtractor(), [sound])["input_features"].reshape(-1, 80)
        filters = mel_filter_bank(257, 80, 20, 8000, 16000, mel_scale="kaldi", triangularize_in_mel_space=True)
        levels = spectrogram(sound * 2**15, window_function(400, "povey", periodic=False), 400, 160, 512, 2.0, False, preemphasis=0.97,
                             mel_filters=filters, log_mel="log", mel_floor=1.192092955078125e-07, remove_dc_offset=True).T
        want = ((levels - levels.mean(0)) / np.sqrt(levels.var(0, ddof=1) + 1e-7))[: len(got)]
    else:
        truncation = "fusion" if scale == "htk" else "rand_trunc"
        extractor = transformers.ClapFeatureExtractor(sampling_rate=16000, max_length_s=1, frequency_max=8000, truncation=truncation)
        got = extract(extractor, [sound])["input_features"][0, 0]
        filters = mel_filter_bank(513, 64, 0, 8000, 16000, norm=norm, mel_scale=scale)
        want = spectrogram(sound, window_function(1024, "hann"), 1024, 480, power=2.0, mel_filters=filters, log_mel="dB").T
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=0)


def resampled(samples, old, new):
    """The formula of docs/audio.md, one output at a time."""
    cut = 0.9475937167399596 * min(old, new) / 2
    n = np.arange(len(samples))
    out = np.empty(-(-len(samples) * new // old))
    for m in range(len(out)):
        u = 2 * cut * (n / old - m / new)
        inside = np.abs(u) < 64
        window = np.i0(14.769656459379492 * np.sqrt(1 - (u[inside] / 64) ** 2)) / np.i0(14.769656459379492)
        out[m] = np.sum(samples[inside] * 2 * cut / old * np.sinc(u[inside]) * window)
    return out


@pytest.mark.parametrize("rate", [8000, 44100, 11025])
def test_other_rates_are_resampled(extract, rate):
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)
    sound = noise(0.1, rate)
    got = extract(extractor, [sound], rate=rate)["input_values"]
    np.testing.assert_allclose(got[0], resampled(sound.astype(np.float64), rate, 16000), atol=1e-5, rtol=0)


def test_channels_are_averaged(extract):
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)
    stereo = np.stack([noise(0.2, seed=1), noise(0.2, seed=2)], 1)
    np.testing.assert_allclose(extract(extractor, [stereo])["input_values"][0], stereo.mean(1), atol=1e-7, rtol=0)


def test_a_processor_is_read_where_newer_saves_keep_it(succeeds, tmp_path):
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "processor_config.json").write_text(json.dumps({"feature_extractor": json.loads(extractor.to_json_string())}))
    sound = noise(0.3, 8000)
    succeeds("preprocess", tmp_path / "model", "--audio", write_wav(tmp_path / "a.wav", sound, 8000), "--out", tmp_path / "x.safetensors")
    compare(load_file(tmp_path / "x.safetensors"), extractor(sound, sampling_rate=8000, return_tensors="np"), atol=1e-5)


def test_the_sounds_of_a_data_set(succeeds, shared, tmp_path):
    """Tar members at 8 kHz, by the manifest's offsets."""
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=False, return_attention_mask=True)
    extractor.save_pretrained(tmp_path / "model")
    manifest = shared / "data" / "mnist_fsdd" / "fsdd_manifest.jsonl"
    succeeds("preprocess", tmp_path / "model", "--data", manifest, "--limit", 5, "--out", tmp_path / "x.safetensors")
    got = load_file(tmp_path / "x.safetensors")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()[:5]]
    assert got["attention_mask"].sum(1).tolist() == [row["frames"] for row in rows]
    for row, values in zip(rows, got["input_values"]):
        with open(manifest.parent / row["shard"], "rb") as shard:
            shard.seek(row["offset"])
            samples = np.frombuffer(shard.read(row["size"])[44 : 44 + 2 * row["frames"]], "<i2") / 32768
        np.testing.assert_array_equal(values[: len(samples)], samples.astype(np.float32))


def test_what_cannot_be_used_is_refused(fails, tmp_path):
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "model")

    def message(path, *more):
        return fails("preprocess", tmp_path / "model", "--audio", path, *more, "--out", tmp_path / "x.safetensors")

    assert "no samples" in message(write_wav(tmp_path / "empty.wav", []))
    eleven = message(write_wav(tmp_path / "eleven.wav", np.zeros((50, 11))))
    assert "eleven.wav: the sound has too many channels: expected 1 to 8, got 11" in eleven
    slow = write_wav(tmp_path / "slow.wav", noise(0.1, 8000), 8000)
    assert "slow.wav: the sound has another sample rate than the model: expected 16000 Hz, got 8000" in message(slow, "--no-resample")
    assert "not one of a recording" in message(write_wav(tmp_path / "odd.wav", noise(0.1), 12))
    whole = (tmp_path / "slow.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:-10])
    assert "cut.wav: the sound is truncated" in message(tmp_path / "cut.wav")
    (tmp_path / "text.wav").write_text("no sound at all")
    assert "expected WAV, FLAC or Ogg" in message(tmp_path / "text.wav")
    assert not (tmp_path / "x.safetensors").exists()
