#include <algorithm>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sstream>

#include "apps/apps.h"
#include "apps/command.h"
#include "apps/help.h"

namespace pith {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

struct Outcome {
  int code;
  std::string out, err;
};

Outcome pith_command(std::vector<std::string> words) {
  words.insert(words.begin(), "pith");
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const int code = run_command_line(static_cast<int>(pointers.size()), pointers.data());
  const std::string out = testing::internal::GetCapturedStdout();
  return {code, out, testing::internal::GetCapturedStderr()};
}

std::vector<std::string> words_of(std::string_view name) {
  std::istringstream in{std::string(name)};
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

TEST(CommandLine, WithoutACommandSaysWhatThereIsAndFails) {
  const Outcome o = pith_command({});
  EXPECT_EQ(o.code, 2);
  EXPECT_THAT(o.out, IsEmpty());
  EXPECT_THAT(o.err, HasSubstr("Usage: pith <command>"));
}

TEST(CommandLine, HelpListsEveryCommandWithItsSummary) {
  for (const char* word : {"--help", "-h", "help"}) {
    const Outcome o = pith_command({word});
    EXPECT_EQ(o.code, 0);
    for (const Command* command : commands()) {
      EXPECT_THAT(o.out, HasSubstr(std::string(command->name) + " "));
      EXPECT_THAT(o.out, HasSubstr(std::string(command->summary)));
    }
  }
}

TEST(CommandLine, VersionIsOneLine) {
  const Outcome o = pith_command({"--version"});
  EXPECT_EQ(o.code, 0);
  EXPECT_THAT(o.out, StartsWith("pith "));
  EXPECT_EQ(std::ranges::count(o.out, '\n'), 1);
}

TEST(CommandLine, EveryCommandExplainsItselfWithAllItsArgumentsAndAnExample) {
  for (const Command* command : commands()) {
    std::vector<std::string> words = words_of(command->name);
    words.push_back("--help");
    const Outcome o = pith_command(words);
    EXPECT_EQ(o.code, 0) << command->name;
    EXPECT_THAT(o.err, IsEmpty());
    EXPECT_THAT(o.out, HasSubstr("Usage: pith " + std::string(command->name)));
    EXPECT_THAT(o.out, AllOf(HasSubstr("Examples\n  $ "), HasSubstr("pith ")));
    Arguments arguments;
    command->setup(arguments);
    for (const Argument& argument : arguments.all()) {
      EXPECT_THAT(o.out, HasSubstr(argument.usage())) << command->name;
      EXPECT_THAT(argument.doc, Not(::testing::EndsWith("."))) << command->name;
    }
    std::istringstream lines(o.out);
    for (std::string line; std::getline(lines, line);)
      EXPECT_LE(line.size(), 100u) << command->name << ": " << line;
    // `pith help inspect` is the same.
    words.pop_back();
    words.insert(words.begin(), "help");
    EXPECT_EQ(pith_command(words).out, o.out);
  }
}

TEST(CommandLine, NoCommandDeclaresAnOptionTwice) {
  for (const Command* command : commands()) {
    Arguments arguments;
    command->setup(arguments);
    std::vector<std::string> names = {"-h", "--help"};
    for (const Argument& argument : arguments.all())
      for (const std::string& name : {argument.short_name, argument.long_name})
        if (!name.empty()) names.push_back(name);
    std::ranges::sort(names);
    EXPECT_EQ(std::ranges::adjacent_find(names), names.end()) << command->name;
  }
}

TEST(CommandLine, AnUnknownOptionOfAnyCommandIsRefusedWithTwo) {
  for (const Command* command : commands()) {
    std::vector<std::string> words = words_of(command->name);
    words.push_back("--no-such-option");
    const Outcome o = pith_command(words);
    EXPECT_EQ(o.code, 2) << command->name;
    EXPECT_THAT(o.out, IsEmpty());
    EXPECT_THAT(o.err, StartsWith("pith: " + std::string(command->name) +
                                  ": no option '--no-such-option'"));
    EXPECT_EQ(std::ranges::count(o.err, '\n'), 1) << o.err;
  }
}

TEST(CommandLine, AnUnknownCommandIsAnsweredWithTheNearestOne) {
  const Outcome o = pith_command({"inspekt", "x"});
  EXPECT_EQ(o.code, 2);
  EXPECT_EQ(o.err, "pith: no command 'inspekt'; did you mean 'inspect'?\n");
  EXPECT_EQ(pith_command({"xyzzy"}).err, "pith: no command 'xyzzy'; 'pith --help' lists them\n");
  EXPECT_EQ(pith_command({"--frob"}).code, 2);
}

TEST(CommandLine, AFileThatIsNotThereIsOneSentenceAndOne) {
  const Outcome o = pith_command({"inspect", "no/such/file.gguf"});
  EXPECT_EQ(o.code, 1);
  EXPECT_EQ(o.err, "pith: no/such/file.gguf: cannot open: No such file or directory\n");
}

TEST(CommandLine, CompletionAndManualKnowEveryCommandAndOption) {
  const std::string bash = pith_command({"completion", "bash"}).out;
  const std::string zsh = pith_command({"completion", "zsh"}).out;
  const std::string fish = pith_command({"completion", "fish"}).out;
  const std::string man = pith_command({"man"}).out;
  const std::string markdown = pith_command({"man", "--markdown"}).out;
  for (const Command* command : commands()) {
    for (const std::string& word : words_of(command->name))
      for (const std::string& text : {bash, zsh, fish, man, markdown})
        EXPECT_THAT(text, HasSubstr(word));
    Arguments arguments;
    command->setup(arguments);
    for (const Argument& argument : arguments.all()) {
      if (argument.operand()) continue;
      const std::string& name = argument.name();
      EXPECT_THAT(bash, HasSubstr(name));
      EXPECT_THAT(zsh, HasSubstr(name));
      EXPECT_THAT(markdown, HasSubstr(name));
      EXPECT_THAT(fish, HasSubstr(name.starts_with("--") ? " -l " + name.substr(2)
                                                         : " -s " + name.substr(1)));
      std::string roff;
      for (const char c : name) roff += c == '-' ? std::string("\\-") : std::string(1, c);
      EXPECT_THAT(man, HasSubstr(roff));
    }
  }
}

TEST(Help, WrapsParagraphsAtTheWidth) {
  EXPECT_EQ(wrap("one two three four", 9, 0), "one two\nthree\nfour\n");
  EXPECT_EQ(wrap("one two three", 9, 2), "  one two\n  three\n");
  EXPECT_EQ(wrap("one two three", 9, 2, true), "one two\n  three\n");
  EXPECT_EQ(wrap("one\n\ntwo", 80, 0), "one\n\ntwo\n");
}

}  // namespace
}  // namespace pith
