#include "train/examples.h"

#include "base/error.h"
#include "train/materials.h"
#include "train/tasks.h"

namespace pith {

std::string example_text(const TrainConfig& config, const std::string& folder,
                         std::string_view task, int length, uint64_t number, Monitor& monitor) {
  if (find_task(task) == nullptr)
    throw Error(Errc::bad_option, "no task '" + std::string(task) + "'");
  const Materials materials = prepare_materials(config, folder, monitor);
  Stage stage;
  stage.length = length;
  stage.rows = 1;
  stage.mix = {{std::string(task), 1.0}};
  const Batch batch =
      make_rows(config, stage, *materials.tokenizer, *materials.held_out, number, 0, 1);
  std::string text;
  TokenRole last = TokenRole::context;
  const auto change = [&](TokenRole role) {
    if (role == last) return;
    if (last == TokenRole::answer) text += "]]";
    if (last == TokenRole::copy) text += ">>";
    if (role == TokenRole::answer) text += "[[";
    if (role == TokenRole::copy) text += "<<";
    last = role;
  };
  for (size_t i = 0; i < batch.tokens.size(); ++i) {
    change(batch.roles[i]);
    text += materials.tokenizer->piece(batch.tokens[i]);
  }
  change(TokenRole::context);
  return text + "\n";
}

}  // namespace pith
