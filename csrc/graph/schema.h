// The schemas of the standard operators, written by the build from the installed onnx.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace ortmod {

struct Schema {
  struct Formal {
    std::string constraint;  // actual values of equal constraint have equal types; "-": none
    uint32_t allowed = 0;    // bit c: tensor of dtype code c; bit 31: not a tensor
    char how = ' ';          // ' ' required, '?' optional, '*' variadic of one type, '+' variadic
  };
  struct AttrDecl {
    std::string name;
    int type;  // AttributeProto.AttributeType
    bool required;
  };
  std::string_view domain, name;
  int since = 0, min_inputs = 0, max_inputs = 0, min_outputs = 0, max_outputs = 0;
  bool deprecated = false;
  std::vector<Formal> inputs, outputs;
  std::vector<AttrDecl> attrs;
};

/// The newest schema that is not newer than `version`, or null when the standard has no such operator then.
const Schema* find_schema(Op op, int version);
/// The opset that an operator of the standard came with; 0 for others.
int first_version(Op op);
/// Whether the standard defines this domain (its operators are all known).
bool is_standard_domain(std::string_view domain);
int newest_ir_version();
/// The IR version that came with an opset of ai.onnx.
int ir_version_of_opset(int opset);

/// Arity, attribute names and types of a node against its schema: ModelError. Nodes of other domains pass; operators
/// that the standard dropped for good are an UnsupportedOpError.
void check_node(const Node& n);
/// Types of the inputs against the schema: TypeError. Unknown types pass.
void check_input_types(const Node& n);

}  // namespace ortmod
