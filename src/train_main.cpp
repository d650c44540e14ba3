// pith-train: the trainer's command line. A program of its own, so that nothing else loads
// libtorch.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fmt/core.h>
#include <malloc.h>

#include "apps/arguments.h"
#include "apps/progress_bar.h"
#include "apps/stop.h"
#include "base/error.h"
#include "base/output_file.h"
#include "calibrate/spans.h"
#include "gguf/gguf.h"
#include "model/model.h"
#include "runtime/engine.h"
#include "train/checkpoint.h"
#include "train/distill.h"
#include "train/examples.h"
#include "train/materials.h"
#include "train/model_card.h"
#include "train/pretrain.h"
#include "train/span_samples.h"
#include "train/train_config.h"

namespace {

using namespace pith;

constexpr const char* kHelp =
    "pith-train: trains small models for Pith\n"
    "\n"
    "  pith-train pretrain CONFIG [--folder FOLDER] [--device cpu|cuda] [--precision f32|bf16]\n"
    "                      [--threads N] [--steps N]\n"
    "      Trains the model that CONFIG describes, or goes on from FOLDER's checkpoint.\n"
    "      FOLDER is CONFIG's name without its ending, if not given.\n"
    "\n"
    "  pith-train export CHECKPOINT OUT [--type f32|f16|bf16|q8_0]\n"
    "      Writes the model of a checkpoint without the state of its training.\n"
    "\n"
    "  pith-train spans MODEL OUT --texts FOLDER [--steps N] [--length N] [--sink N]\n"
    "                   [--recent N] [--seed N] [--threads N]\n"
    "      Trains DuoAttention's gates for a llama-architecture model and adds them to the\n"
    "      calibration file OUT, which '--kv spans:calibration=OUT' reads.\n"
    "\n"
    "  pith-train distill CONFIG [--folder FOLDER] [--threads N] [--steps N]\n"
    "      Trains scorer and adapter of KV-Distill for the model that CONFIG names, or goes on "
    "from\n"
    "      FOLDER's checkpoint. '--kv kvdistill:adapter=FOLDER/NAME.adapter.gguf' reads the "
    "result.\n"
    "\n"
    "  pith-train card CONFIG MODEL OUT [--folder FOLDER] [--samples N] [--threads N]\n"
    "      Measures a model with the engine and writes its card.\n"
    "\n"
    "  pith-train sample CONFIG TASK [--folder FOLDER] [--length N] [--number N]\n"
    "      Shows a sample of a task, what is asked between [[ and ]].\n"
    "\n"
    "docs/training.md describes CONFIG and the folder.\n";

// Where the run of a configuration lies, if nothing else is said.
std::string run_folder(const std::string& config) {
  return std::filesystem::path(config).replace_extension().string();
}

void print_point(const CurvePoint& point, double tokens_per_second) {
  std::string line = fmt::format("{} step {:>6}  {:>10} tokens  length {:>5}  loss {:.4f}",
                                 point.held_out ? "held out" : "training", point.step, point.tokens,
                                 point.length, point.loss);
  for (const TokenRole role : {TokenRole::text, TokenRole::copy, TokenRole::answer}) {
    const RoleScore& score = point.score.roles[static_cast<size_t>(role)];
    if (score.targets == 0) continue;
    const auto targets = static_cast<double>(score.targets);
    line += fmt::format("  {} {:.3f} ({:.1f} % right)", kRoleNames[static_cast<size_t>(role)],
                        score.loss / targets, 100 * static_cast<double>(score.right) / targets);
  }
  if (tokens_per_second > 0) line += fmt::format("  {:.0f} tokens/s", tokens_per_second);
  std::puts(line.c_str());
  std::fflush(stdout);
}

int run_pretrain(const std::vector<std::string>& words) {
  std::string path, precision = "f32";
  PretrainOptions options;
  options.threads = 2;
  int steps = 0;
  Arguments arguments;
  arguments.operand("CONFIG", path, "what to train").required();
  arguments.option("--folder", options.folder, "FOLDER", "where the run lies");
  arguments.choice("--device", options.device, "cpu|cuda", "where products run");
  arguments.choice("--precision", precision, "f32|bf16", "of products");
  arguments.option("--threads", options.threads, "N", "threads of the CPU").at_least(1);
  arguments.option("--steps", steps, "N", "stop after so many; 0: at the end").at_least(0);
  parse_arguments(arguments, words);
  options.bf16 = precision == "bf16";
  options.stop_after = steps;
  const TrainConfig config = read_train_config(path);
  if (options.folder.empty()) options.folder = run_folder(path);
  ProgressBar bar;
  double last_seconds = -1;
  int64_t last_tokens = 0, told = -1;
  pretrain(config, options, bar, [&](const CurvePoint& point) {
    constexpr int64_t kTellEvery = 10;
    if (!point.held_out && last_seconds >= 0 && point.step < told + kTellEvery) return;
    const double seconds = point.seconds - last_seconds;
    const double rate = point.held_out || last_seconds < 0 || seconds <= 0
                            ? 0
                            : static_cast<double>(point.tokens - last_tokens) / seconds;
    bar.erase();
    print_point(point, rate);
    last_seconds = point.seconds;
    last_tokens = point.tokens;
    if (!point.held_out) told = point.step;
  });
  return 0;
}

int run_distill(const std::vector<std::string>& words) {
  std::string path;
  DistillOptions options;
  options.threads = 2;
  int steps = 0;
  Arguments arguments;
  arguments.operand("CONFIG", path, "what to distill").required();
  arguments.option("--folder", options.folder, "FOLDER", "where the run lies");
  arguments.option("--threads", options.threads, "N", "threads of the CPU").at_least(1);
  arguments.option("--steps", steps, "N", "stop after so many; 0: at the end").at_least(0);
  parse_arguments(arguments, words);
  options.stop_after = steps;
  const DistillConfig config = read_distill_config(path);
  if (options.folder.empty()) options.folder = run_folder(path);
  ProgressBar bar;
  distill(config, options, bar, [&](const CurvePoint& point) {
    constexpr int64_t kTellEvery = 10;
    if (!point.held_out && point.step % kTellEvery != 0) return;
    bar.erase();
    print_point(point, 0);
  });
  return 0;
}

int run_export(const std::vector<std::string>& words) {
  std::string checkpoint, out, type = "f16";
  Arguments arguments;
  arguments.operand("CHECKPOINT", checkpoint, "a run's checkpoint").required();
  arguments.operand("OUT", out, "the model to write").required();
  arguments.choice("--type", type, "f32|f16|bf16|q8_0", "format of matrices");
  parse_arguments(arguments, words);
  DType dtype = DType::f16;
  PITH_CHECK(parse_dtype(type, dtype), "a type that is offered is known");
  export_checkpoint(checkpoint, out, dtype);
  return 0;
}

int run_card(const std::vector<std::string>& words) {
  std::string path, model, out, folder;
  ExaminationOptions examination;
  EngineOptions options{.exact = true};
  Arguments arguments;
  arguments.operand("CONFIG", path, "what was trained").required();
  arguments.operand("MODEL", model, "the model's GGUF file").required();
  arguments.operand("OUT", out, "the card to write").required();
  arguments.option("--folder", folder, "FOLDER", "where the run lies");
  arguments.option("--samples", examination.samples, "N", "for each length and depth").at_least(1);
  arguments.option("--threads", options.threads, "N", "threads; 0: one per core").at_least(0);
  parse_arguments(arguments, words);
  const TrainConfig config = read_train_config(path);
  if (folder.empty()) folder = run_folder(path);
  OutputFile::check(out);
  ProgressBar bar;
  const Materials materials = prepare_materials(config, folder, bar);
  const auto file = GgufFile::open(model);
  Engine engine(Model::load(file), options);
  const std::string card =
      model_card(config, *file, examine(engine, *materials.held_out, examination, bar));
  bar.erase();
  OutputFile written(out);
  written.write(card.data(), card.size());
  written.commit();
  return 0;
}

int run_spans(const std::vector<std::string>& words) {
  std::string path, out;
  std::vector<std::string> folders;
  int length = 2048;
  uint64_t seed = 1;
  SpanOptions options;
  Arguments arguments;
  arguments.operand("MODEL", path, "the model's GGUF file").required();
  arguments.operand("OUT", out, "the calibration file").required();
  arguments.option("--texts", folders, "FOLDER", "where .txt files lie").required();
  arguments.option("--steps", options.steps, "N", "steps").at_least(1);
  arguments.option("--length", length, "N", "tokens of the longest sample").at_least(256);
  arguments.option("--sink", options.sink, "N", "first rows that every head sees").at_least(0);
  arguments.option("--recent", options.recent, "N", "newest rows that it sees").at_least(1);
  arguments.option("--seed", seed, "N", "of the samples");
  arguments.option("--threads", options.threads, "N", "threads of the CPU").at_least(1);
  parse_arguments(arguments, words);
  OutputFile::check(out);
  ProgressBar bar;
  const auto file = GgufFile::open(path);
  const auto model = Model::load(file);
  NetworkShape shape = read_shape(*file);
  shape.context = std::min(shape.context, length);
  const std::vector<float> parameters = read_parameters(*file, shape);
  const auto tokenizer = Tokenizer::load(*file);
  const std::vector<TextFile> texts = read_texts(folders);
  std::vector<const TextFile*> all;
  for (const TextFile& text : texts) all.push_back(&text);
  const Corpus corpus(all, *tokenizer, bar);
  const std::vector<float> gates = train_spans(
      shape, parameters, options,
      [&](int step) {
        return make_span_sample({*tokenizer, corpus}, seed, step, shape.context);
      },
      bar);
  add_calibration(out, model->config().digest,
                  {.kind = "spans", .made_by = "pith-train spans", .text_digest = {}, .seed = seed},
                  span_tensors(gates, model->config().shape));
  bar.erase();
  for (int l = 0; l < shape.layers; ++l)
    for (int h = 0; h < shape.heads; ++h)
      fmt::print("layer {:>2}  head {:>2}  {:.3f}\n", l, h,
                 gates[static_cast<size_t>(l * shape.heads + h)]);
  return 0;
}

int run_sample(const std::vector<std::string>& words) {
  std::string path, task, folder;
  int length = 512;
  uint64_t number = 0;
  Arguments arguments;
  arguments.operand("CONFIG", path, "what to train").required();
  arguments.operand("TASK", task, "its name").required();
  arguments.option("--folder", folder, "FOLDER", "where the run lies");
  arguments.option("--length", length, "N", "tokens").at_least(16);
  arguments.option("--number", number, "N", "which one");
  parse_arguments(arguments, words);
  const TrainConfig config = read_train_config(path);
  if (folder.empty()) folder = run_folder(path);
  ProgressBar bar;
  const std::string text = example_text(config, folder, task, length, number, bar);
  bar.erase();
  std::fputs(text.c_str(), stdout);
  return 0;
}

int dispatch(std::vector<std::string> words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    std::fputs(kHelp, words.empty() ? stderr : stdout);
    return words.empty() ? 2 : 0;
  }
  const std::string command = words[0];
  words.erase(words.begin());
  for (const std::string& word : words)
    if (word == "--help" || word == "-h") {
      std::fputs(kHelp, stdout);
      return 0;
    }
  if (command == "pretrain") return run_pretrain(words);
  if (command == "distill") return run_distill(words);
  if (command == "card") return run_card(words);
  if (command == "spans") return run_spans(words);
  if (command == "sample") return run_sample(words);
  if (command == "export") return run_export(words);
  throw Error(Errc::bad_option, "no command '" + command + "'; 'pith-train --help' lists them");
}

}  // namespace

int main(int argc, char** argv) {
  // Tensors come and go by the thousand: what was freed is kept for the next step.
  constexpr int kKept = 1 << 30;
  mallopt(M_MMAP_THRESHOLD, kKept);
  mallopt(M_TRIM_THRESHOLD, kKept);
  try {
    catch_interrupts();
    return dispatch({argv + 1, argv + argc});
  } catch (const Error& error) {
    std::fprintf(stderr, "pith-train: %s\n", error.what());
    return error.code() == Errc::bad_option ? 2 : error.code() == Errc::interrupted ? 130 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pith-train: an internal error, which is a bug worth reporting: %s\n",
                 error.what());
    return 1;
  }
}
