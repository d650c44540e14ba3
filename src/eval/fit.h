// Samples as long as asked for, in the model's own tokens.
#pragma once

#include <functional>
#include <string>

#include "eval/task.h"

namespace pith {

// The largest size in [least, most] whose sample fits into the request, by the tokens of its
// longest question's prompt and its answer: make(size) must not depend on anything else than the
// size. The reference codes search once and shrink each sample until it fits; here each is
// searched, so that it depends on its seed and index alone. Throws bad_request if make(least) is
// too long.
Sample fit_sample(const Task& task, const SampleRequest& request, int least, int most,
                  const std::function<Sample(int size)>& make);

// Tokens of the longest prompt of a sample and of its answer, with what is wrapped around.
int sample_tokens(const Sample& sample, const SampleRequest& request);

// The text of haystacks: the user's, or prose of our own with so many words.
std::string haystack_text(const SampleRequest& request, int words);

}  // namespace pith
