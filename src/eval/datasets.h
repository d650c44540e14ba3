// Published data sets as tasks: their files, prompts, truncation in the middle, and metrics.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "eval/task.h"

namespace pith {

// Sample `index` of such a task is the record of that number, from the start again behind the last.
// Where a prompt is too long, the middle of its context goes: half of what may stay is its
// beginning, half its end. What remains may need a few tokens less than allowed. `make` throws
// bad_request if not even a question fits.
//
// `format` is one of dataset_formats(); with "loogle", "infinitebench" and "ruler" the file's name
// says which task of the suite it holds ("shortdep_qa.jsonl"), or the format does
// ("loogle:shortdep_qa"). `name` is the file's, for sentences and for that. Throws bad_file with
// file, line and field for a record that is not what its format says, and bad_option for a format
// or task there is not.
std::unique_ptr<const Task> load_dataset(std::string_view format, std::string_view text,
                                         const std::string& name);
std::vector<std::string_view> dataset_formats();

// The readers of two of them, in files of their own.
class JsonRecord;
Sample longbench_sample(const JsonRecord& record);
Sample infinite_sample(std::string_view task, const JsonRecord& record);

// Cuts the middle out of the context until the sample has at most request.max_tokens.
void cut_middle(Sample& sample, const SampleRequest& request, const std::string& where);

// A prompt's form, "Story: {context}\n\nQuestion: {input}", at its context: what is before it and
// the context itself are the sample's context, what is behind it the question's text.
void fill_prompt(Sample& sample, std::string_view form, const std::string& context,
                 const std::string& input);

}  // namespace pith
