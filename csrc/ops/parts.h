// The alias fact of operators that cut a flat tensor into pieces or join pieces into one.
#pragma once

namespace ortmod {

/// OpDef::alias: the outputs are consecutive pieces of input 0, in order.
inline constexpr int kPiecesOfInput = -2;
/// OpDef::alias: the inputs are consecutive pieces of output 0, in order.
inline constexpr int kPiecesOfOutput = -3;

}  // namespace ortmod
