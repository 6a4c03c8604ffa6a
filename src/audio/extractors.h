#pragma once
// One function a type of feature extractor, for FeatureExtractor::from_json. A new type is one file and one line in feature_extractor.cpp.

#include <memory>

#include "audio/extractor_fields.h"
#include "audio/feature_extractor.h"

namespace mmtune::audio {

/// The samples themselves, normalised (Wav2Vec2, HuBERT, WavLM).
std::unique_ptr<FeatureExtractor> make_wav2vec2_extractor(const ExtractorFields& fields);
/// Slaney's log-mel spectrogram of sounds cut or filled up to one length [B, mels, frames] (Whisper).
std::unique_ptr<FeatureExtractor> make_whisper_extractor(const ExtractorFields& fields);
/// Kaldi filter banks [B, frames, mels] of one number of frames (AST).
std::unique_ptr<FeatureExtractor> make_ast_extractor(const ExtractorFields& fields);
/// Kaldi filter banks, normalised per band, several frames a row [B, rows, mels · stride] (SeamlessM4T, Wav2Vec2-BERT).
std::unique_ptr<FeatureExtractor> make_seamless_extractor(const ExtractorFields& fields);
/// Mel spectrograms in decibels of sounds filled up to one length [B, 4 or 1, frames, mels] (CLAP). Its random crops of longer sounds are
/// refused.
std::unique_ptr<FeatureExtractor> make_clap_extractor(const ExtractorFields& fields);

}  // namespace mmtune::audio
