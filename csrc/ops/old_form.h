// Rules and bodies that write an old form report it, for whoever chooses the opset of a gradient model.
#pragma once
#include <string>
#include <vector>

#include "graph/graph.h"

namespace ortmod {

/// From this opset of ai.onnx on there is no old form.
inline constexpr int kLastCheaperForm = 16;

struct OldForm {
  std::string node;  // the forward node and the operator whose gradient it is
  int opset;         // that has the cheap form
  std::string cost;  // what the old form does instead
};

/// While it lives, collects what the rules report on this thread.
class OldForms {
 public:
  OldForms();
  OldForms(const OldForms&) = delete;
  OldForms& operator=(const OldForms&) = delete;
  ~OldForms();
  std::vector<OldForm> list;
  std::string node;

 private:
  OldForms* const outer_;
};

/// The node whose rule or body is about to be asked.
void report_rules_of(const Node& n);
/// To call before writing (or failing for want of) a form that opset `opset` <= kLastCheaperForm has cheaper.
void cheaper_from(int opset, const std::string& cost);

}  // namespace ortmod
