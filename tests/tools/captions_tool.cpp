// What the parity tests compare: `captions_tool < FILE` with one JSON object, {"candidates": [text], "references": [[text]]}; answers with
// tokens and scores as JSON.
#include <iostream>
#include <iterator>

#include "core/json.h"
#include "report/captions.h"

int main() {
  using namespace mmtune;
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  try {
    const Json given = parse_json(text, "stdin");
    std::vector<report::Captions> captions;
    Json tokens = Json::array();
    for (std::size_t i = 0; i < given.at("candidates").size(); ++i) {
      report::Captions one{report::caption_tokens(given["candidates"][i].get<std::string>()), {}};
      for (const Json& reference : given.at("references").at(i))
        one.references.push_back(report::caption_tokens(reference.get<std::string>()));
      tokens.push_back({one.candidate, one.references});
      captions.push_back(std::move(one));
    }
    const auto bleu = report::bleu(captions);
    std::cout << Json{{"tokens", tokens}, {"bleu", bleu}, {"cider_d", report::cider_d(captions)}, {"cider", report::cider(captions)}}
              << "\n";
  } catch (const std::exception& error) {
    std::cerr << "captions_tool: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
