// pith tokenize: text to token ids and back.
#include <charconv>
#include <cstdio>
#include <memory>

#include "apps/command.h"
#include "apps/json_writer.h"
#include "apps/table.h"
#include "apps/text_input.h"
#include "base/error.h"
#include "gguf/gguf.h"
#include "text/tokenizer.h"

namespace pith {
namespace {

struct TokenizeOptions {
  std::string model;
  TextArguments text;
  std::string format = "md";
  bool decode = false, ids = false, count = false, literal = false, bare = false;
};

std::vector<int32_t> parse_ids(const std::string& text, int vocab) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < text.size();) {
    if (text.find_first_of(" \t\r\n,[]", i) == i) {
      ++i;
      continue;
    }
    const size_t end = std::min(text.find_first_of(" \t\r\n,[]", i), text.size());
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(text.data() + i, text.data() + end, id);
    if (error != std::errc() || stop != text.data() + end || id < 0 || id >= vocab)
      throw Error(Errc::bad_request, "'" + text.substr(i, end - i) +
                                         "' is not a token id between 0 and " +
                                         std::to_string(vocab - 1));
    ids.push_back(id);
    i = end;
  }
  return ids;
}

std::string list_of(const std::vector<int32_t>& tokens) {
  std::string out;
  for (const int32_t token : tokens) out += (out.empty() ? "" : " ") + std::to_string(token);
  return out + "\n";
}

std::string json_of(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens) {
  JsonWriter json;
  json.object().key("count").value(tokens.size()).key("text").value(tokenizer.decode(tokens));
  json.key("tokens").array();
  for (const int32_t token : tokens)
    json.object().key("id").value(token).key("name").value(tokenizer.name(token)).end();
  return json.end().end().text();
}

Table table_of(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens) {
  Table table({{"index", "index"}, {"id", "id"}, {"name", "name", false}, {"text", "text", false}});
  for (size_t i = 0; i < tokens.size(); ++i) {
    // As a JSON string: spaces, line ends and half characters can be seen.
    table.add({std::to_string(i), std::to_string(tokens[i]), std::string(tokenizer.name(tokens[i])),
               JsonWriter(0).value(tokenizer.piece(tokens[i])).text()});
  }
  return table;
}

int tokenize(const TokenizeOptions& options) {
  const std::string text = read_text(options.text, options.decode ? "list of ids" : "text");
  const std::shared_ptr<const GgufFile> file = GgufFile::open(options.model);
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::load(*file);
  std::vector<int32_t> tokens;
  if (options.decode)
    tokens = parse_ids(text, tokenizer->size());
  else if (options.bare)
    tokens = tokenizer->encode(text, !options.literal);
  else
    tokens = tokenizer->encode_prompt(text, !options.literal);
  const auto print = [](const std::string& out) {
    std::fwrite(out.data(), 1, out.size(), stdout);
    return 0;
  };
  if (options.count) return print(std::to_string(tokens.size()) + "\n");
  if (options.format == "json") return print(json_of(*tokenizer, tokens));
  if (options.ids) return print(list_of(tokens));
  if (options.decode) return print(tokenizer->decode(tokens));
  table_of(*tokenizer, tokens).print(stdout, options.format);
  return 0;
}

std::function<int()> setup(Arguments& arguments) {
  const auto options = std::make_shared<TokenizeOptions>();
  arguments.option("-m,--model", options->model, "FILE", "a GGUF file with a vocabulary")
      .required()
      .completes(Complete::file);
  declare_text(arguments, options->text, "text");
  arguments.flag("--decode", options->decode, "the text is a list of ids; write what they spell");
  arguments.flag("--ids", options->ids, "only the ids, on one line");
  arguments.flag("--count", options->count, "only how many there are");
  arguments.flag("--bare", options->bare, "without the tokens that begin and end a text");
  arguments.flag("--literal", options->literal, "text that looks like a special token stays text");
  arguments.format(options->format);
  return [options] { return tokenize(*options); };
}

}  // namespace

const Command kTokenizeCommand = {
    "tokenize",
    "show the tokens of a text, or the text of tokens",
    "",
    "$ pith tokenize -m model.gguf -p 'Hello world'\n"
    "$ pith tokenize -m model.gguf -f book.txt --count\n"
    "$ echo 1 15043 3186 | pith tokenize -m model.gguf --decode",
    setup,
};

}  // namespace pith
