#pragma once
// What the environment says of the hub: the variables of huggingface_hub, with the same meaning.

#include <filesystem>
#include <optional>
#include <string>

namespace mmtune::hub {

struct Settings {
  std::string endpoint = "https://huggingface.co";  ///< HF_ENDPOINT, without a slash at the end
  std::filesystem::path cache;                      ///< HF_HUB_CACHE, HF_HOME/hub, ~/.cache/huggingface/hub
  std::optional<std::string> token;                 ///< HF_TOKEN, else the file HF_TOKEN_PATH, HF_HOME/token
  bool offline = false;                             ///< HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE
  std::string offline_variable = {};                ///< the one of the two that is set
  long stall_seconds = 30;                          ///< HF_HUB_DOWNLOAD_TIMEOUT: how long no byte may arrive
  std::string certificates = {};                    ///< SSL_CERT_FILE; empty: the system's
};

/// Throws UsageError naming the variable: an endpoint that is no http(s) address, a token with characters that no header may carry.
Settings read_settings();

}  // namespace mmtune::hub
