// The one family of errors; Python maps each kind to a class under ortmod.OrtmodError.
#pragma once
#include <stdexcept>
#include <string>

namespace ortmod {

enum class ErrorKind { kModel, kUnsupportedOp, kGradient, kShape, kType, kDevice, kRun };

/// Message form: `[stage] what is wrong: got ..., expected ... (node "name" ai.onnx::Op-13, input 1 "W"); what to do`.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

struct Node;
/// ` (node "name" ai.onnx::Op-13, input i "W")`; pass input < 0 to leave the input out.
std::string where(const Node& node, int input = -1);

[[noreturn]] void fail(ErrorKind kind, const std::string& stage, const std::string& what);
[[noreturn]] void fail(ErrorKind kind, const std::string& stage, const std::string& what, const Node& node,
                       int input = -1, const std::string& advice = "");

}  // namespace ortmod
