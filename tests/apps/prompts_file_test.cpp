#include "apps/prompts_file.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace pith {
namespace {

std::string error_of(std::string_view text) {
  try {
    parse_prompts(text, "p.txt");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(PromptsFile, HasAPromptInEachLineThatIsNotEmpty) {
  const auto prompts = parse_prompts("one\r\n\n  two words \n\t\nlast", "p.txt");
  ASSERT_EQ(prompts.size(), 3u);
  EXPECT_EQ(prompts[0].text, "one");
  EXPECT_EQ(prompts[1].text, "  two words ");
  EXPECT_EQ(prompts[1].where, "p.txt:3");
  EXPECT_EQ(prompts[2].text, "last");
  EXPECT_FALSE(prompts[2].spec || prompts[2].predict || prompts[2].seed);
}

TEST(PromptsFile, IsJsonLinesIfItBeginsWithABrace) {
  const auto prompts = parse_prompts(
      "\n{\"prompt\": \"a\\nb\", \"kv\": \"full\", \"predict\": -1, \"seed\": "
      "18446744073709551615}\n"
      " {\"prompt\": \"{\"}\n",
      "p.txt");
  ASSERT_EQ(prompts.size(), 2u);
  EXPECT_EQ(prompts[0].text, "a\nb");
  EXPECT_EQ(prompts[0].spec, "full");
  EXPECT_EQ(prompts[0].predict, -1);
  EXPECT_EQ(prompts[0].seed, 18446744073709551615u);
  EXPECT_EQ(prompts[1].text, "{");
  EXPECT_EQ(parse_prompts("x\n{\"prompt\": 1}", "p.txt")[1].text, "{\"prompt\": 1}");
}

TEST(PromptsFile, ThatIsNotWhatItBeganAsIsRefusedWithTheLine) {
  for (const auto& [text, sentence] : std::vector<std::pair<const char*, const char*>>{
           {"", "p.txt: there is no prompt"},
           {" \n\n", "p.txt: there is no prompt"},
           {"{\"prompt\": \"a\"}\nb", "p.txt:2: not a JSON object"},
           {"{\"prompt\": \"a\"", "p.txt:1: not a JSON object"},
           {"{\"kv\": \"full\"}", "p.txt:1: \"prompt\" is missing"},
           {"{\"prompt\": 3}", "p.txt:1: \"prompt\" must be a text"},
           {"{\"prompt\": \"a\", \"kv\": []}", "p.txt:1: \"kv\" must be a text"},
           {"{\"prompt\": \"a\", \"n\": 3}", "p.txt:1: no key \"n\""},
           {"{\"prompt\": \"a\", \"predict\": 1.5}", "\"predict\" must be a whole number"},
           {"{\"prompt\": \"a\", \"predict\": -2}", "of at least -1"},
           {"{\"prompt\": \"a\", \"predict\": 3000000000}", "\"predict\" must be"},
           {"{\"prompt\": \"a\", \"seed\": -1}", "of at least 0"}}) {
    EXPECT_NE(error_of(text).find(sentence), std::string::npos)
        << text << " said: " << error_of(text);
    EXPECT_EQ(error_of(text).find('\n'), std::string::npos);
  }
}

}  // namespace
}  // namespace pith
