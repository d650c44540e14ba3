// The report of `pith eval -o html`: one page that asks for nothing from elsewhere, light and dark;
// and its figures as files.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "apps/eval_results.h"

namespace pith {

struct EvalReport {
  std::vector<EvalRow> rows;
  std::map<std::pair<std::string, std::string>, std::string> flags;  // by model and settings
  std::string results;                                               // file; empty: none
};

std::string report_page(const EvalReport& report);
// name.svg and its text, for every figure of the page.
std::vector<std::pair<std::string, std::string>> report_files(const EvalReport& report);

}  // namespace pith
