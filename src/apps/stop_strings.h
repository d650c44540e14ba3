// Ends a generated text at the first of some strings, wherever token boundaries fall. Text that may
// be the beginning of a stop string is held back until it is known not to be.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pith {

class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops);  // empty ones are ignored

  // What may be shown now. After a hit, nothing more is.
  std::string feed(std::string_view text);
  // The text has ended: what was held back.
  std::string flush();
  bool waiting() const { return !waiting_.empty(); }  // text is held back
  bool hit() const { return !found_.empty(); }
  const std::string& found() const { return found_; }  // the string that ended the text

 private:
  std::vector<std::string> stops_;
  std::string waiting_, found_;
};

}  // namespace pith
