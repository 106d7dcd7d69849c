// Rules and bodies that write an old form report it.
#include "ops/old_form.h"

#include <stdexcept>

namespace ortmod {
namespace {

thread_local OldForms* current = nullptr;

}  // namespace

OldForms::OldForms() : outer_(current) { current = this; }
OldForms::~OldForms() { current = outer_; }

void report_rules_of(const Node& n) {
  if (!current) return;
  const std::string name = !n.source.empty() ? n.source : !n.name.empty() || !n.out() ? n.name : n.out()->name;
  current->node = "\"" + name + "\" (" + n.op->name + ")";
}

void cheaper_from(int opset, const std::string& cost) {
  if (opset > kLastCheaperForm) throw std::logic_error("kLastCheaperForm is too low");
  if (current) current->list.push_back({current->node, opset, cost});
}

}  // namespace ortmod
