#include "report/html.h"

#include <gtest/gtest.h>

#include <limits>

#include "report/mope_page.h"

namespace mmtune::report {
namespace {

TEST(Html, EscapesWhatWouldBeMarkup) {
  EXPECT_EQ(escape_html("<b a='1'>\"&\"</b>"), "&lt;b a=&#39;1&#39;&gt;&quot;&amp;&quot;&lt;/b&gt;");
  EXPECT_EQ(escape_html("größe \xF0\x9F\x98\x80"), "größe \xF0\x9F\x98\x80");
  EXPECT_EQ(escape_html("\xFF\xC3"), "\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(escape_html("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");  // a surrogate is no character
  EXPECT_EQ(escape_html(std::string_view("a\0b", 3)), "a b");
}

TEST(Html, EncodesBase64) {
  const auto encoded = [](std::string_view text) { return data_uri("x/y", std::as_bytes(std::span(text))); };
  EXPECT_EQ(encoded(""), "data:x/y;base64,");
  EXPECT_EQ(encoded("f"), "data:x/y;base64,Zg==");
  EXPECT_EQ(encoded("fo"), "data:x/y;base64,Zm8=");
  EXPECT_EQ(encoded("foobar"), "data:x/y;base64,Zm9vYmFy");
}

TEST(Html, KnowsPicturesByTheirBytes) {
  const auto type = [](std::string_view text) { return picture_type(std::as_bytes(std::span(text))); };
  EXPECT_EQ(type("\x89PNG\r\n\x1a\n"), "image/png");
  EXPECT_EQ(type("\xFF\xD8\xFF\xE0"), "image/jpeg");
  EXPECT_EQ(type("RIFF0000WEBPVP8 "), "image/webp");
  EXPECT_EQ(type("GIF89a"), "");
}

TEST(Html, NumbersThatAreNone) {
  EXPECT_EQ(number(0.12345), "0.123");
  EXPECT_EQ(number(std::numeric_limits<double>::quiet_NaN()), "–");
}

MopePage small_page() {
  MopePage page{.run = "runs/<x>", .data = "d.jsonl", .metric_name = "accuracy", .examples = 2, .experts = 2, .prompt_length = 3};
  page.blocks = {"encoder.layer.0"};
  page.statistics = {routing_statistics({.block = "encoder.layer.0", .experts = 2, .scores = {1, 0, 0, 1}}, {{0}, {1}})};
  const ShownExample example{.id = "7", .text = "is it <red>?", .picture = {}, .label = "yes", .predicted = "no", .score = 0.5};
  page.shown = {{.usage = 0.5, .chosen = 0.5, .gallery = {{example, 0.9}}, .words = {{"red", 1, 1.0}}, .labels = {{"yes", 1.0}}}, {}};
  page.ablations = {{.metric = 0.4, .loss = 1, .changed = 0.5, .labels = {{"yes", -0.5}}}, {}};
  page.paths = {{.example = example, .scores = {{0.9, 0.1}}}};
  return page;
}

TEST(MopePage, IsOneFileThatAsksForNothing) {
  const std::string page = mope_page(small_page());
  EXPECT_EQ(page.find("<!doctype html>"), 0U);
  for (const char* foreign : {"http:", "https:", "<script", "src=\"/", "@import", "url("})
    EXPECT_EQ(page.find(foreign), std::string::npos) << foreign;
  EXPECT_EQ(page.find("<red>"), std::string::npos);
  EXPECT_NE(page.find("is it &lt;red&gt;?"), std::string::npos);
  EXPECT_NE(page.find("runs/&lt;x&gt;"), std::string::npos);
}

TEST(MopePage, ElementsAreClosed) {
  const std::string page = mope_page(small_page());
  for (const std::string tag :
       {"div", "section", "table", "tr", "td", "th", "svg", "p", "h2", "h3", "small", "span", "ul", "li", "figure"}) {
    std::size_t opened = 0, closed = 0;
    for (std::size_t at = 0; (at = page.find("<" + tag, at)) != std::string::npos; ++at) {
      const char next = page[at + tag.size() + 1];
      opened += next == ' ' || next == '>' ? 1 : 0;
    }
    for (std::size_t at = 0; (at = page.find("</" + tag + ">", at)) != std::string::npos; ++at) ++closed;
    EXPECT_EQ(opened, closed) << tag;
  }
}

}  // namespace
}  // namespace mmtune::report
