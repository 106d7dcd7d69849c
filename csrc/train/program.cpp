// Plans of composed graphs and their long-lived frames.
#include "train/program.h"

#include <ATen/ATen.h>

#include "graph/symbol.h"
#include "train/arena.h"

namespace ortmod {

Scalar::Scalar(DType t, at::Device d)
    : tensor_(at::zeros({}, at::TensorOptions().dtype(to_scalar_type(t)).device(d))),
      data_(tensor_.mutable_data_ptr()),
      type_(t) {}

void Scalar::set(double v) {
  if (tensor_.is_cpu() && type_ == DType::kFloat) {
    *static_cast<float*>(data_) = static_cast<float>(v);
  } else if (tensor_.is_cpu() && type_ == DType::kDouble) {
    *static_cast<double*>(data_) = v;
  } else if (tensor_.is_cpu() && type_ == DType::kInt64) {
    *static_cast<int64_t*>(data_) = static_cast<int64_t>(v);
  } else {
    tensor_.fill_(v);
  }
}

double read_other_number(const void* data, DType t) {
  return at::from_blob(const_cast<void*>(data), {}, to_scalar_type(t)).item<double>();
}

Program::Program(Composed c, at::Device device) : c_(std::move(c)) {
  std::vector<std::string> names;
  for (const Value* v : c_.graph->inputs) names.push_back(v->name);
  const size_t n = c_.graph->outputs.size();
  plan_ = Plan::make(std::move(c_.graph), n, std::move(names), device, c_.donations);
}

int Program::output(const std::string& role) const {
  const auto it = std::find(c_.outputs.begin(), c_.outputs.end(), role);
  return it == c_.outputs.end() ? -1 : static_cast<int>(it - c_.outputs.begin());
}

Program::Run& Program::at(const std::vector<std::vector<int64_t>>& column_dims,
                          const std::map<std::string, at::Tensor>& fixed) {
  const auto [it, fresh] = runs_.try_emplace(column_dims);
  Run& r = it->second;
  if (!fresh) return r;
  try {
    const size_t columns = c_.columns.size();
    if (column_dims.size() != columns)
      fail(ErrorKind::kShape, "train",
           "wrong number of data columns: got " + std::to_string(column_dims.size()) + ", expected " +
               std::to_string(columns));
    std::vector<Type> types;
    std::unordered_map<Dim, int64_t> symbols;
    for (size_t i = 0; i < plan_->num_inputs(); ++i) {
      Type t = plan_->input_type(i);
      if (i < columns) {
        const Dims d(column_dims[i].begin(), column_dims[i].end());
        bool ok = !t.has_rank || t.dims.size() == d.size();
        for (size_t k = 0; ok && t.has_rank && k < d.size(); ++k) {
          if (is_known(t.dims[k]))
            ok = t.dims[k] == d[k];
          else if (t.dims[k] != kAnyDim && dim_expr(t.dims[k]).op == 'n')
            ok = symbols.try_emplace(t.dims[k], d[k]).first->second == d[k];
        }
        if (!ok)
          fail(ErrorKind::kShape, "train",
               "wrong shape of \"" + c_.columns[i] + "\": got " + to_string(d) + ", expected " + to_string(t.dims));
        t = Type(t.dtype, d);
      }
      types.push_back(std::move(t));
    }
    r.sizes = plan_->size(types, std::vector<const HostInts*>(types.size()), true);
    r.frame = std::make_unique<Frame>(*r.sizes);
    const at::Device device = plan_->device();
    const int64_t own = (r.sizes->list.scratch_bytes() + 63) / 64 * 64, bytes = own + r.sizes->scratch_bytes;
    if (bytes > 0) {
      r.scratch = arena({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
      char* base = static_cast<char*>(r.scratch.mutable_data_ptr());
      r.frame->bind(kStepScratch, base);
      r.frame->bind(kScratch, base + own);
    }
    for (size_t i = 0; i < columns; ++i)
      r.column_base.push_back(r.sizes->places[i] == Place::kBase ? plan_->base_of_input(i) : -1);
    std::vector<at::Tensor> bound;
    for (size_t k = 0; k < c_.fixed.size(); ++k) {
      const size_t i = columns + k;
      if (c_.fixed[k] == "rows" || c_.fixed[k] == "inverse_rows") {
        const auto rows = static_cast<double>(column_dims.empty() || column_dims[0].empty() ? 1 : column_dims[0][0]);
        const bool inverse = c_.fixed[k] == "inverse_rows";
        std::unique_ptr<Scalar>& own = inverse ? r.inverse_rows : r.rows;
        own = std::make_unique<Scalar>(types[i].dtype, device);
        own->set(inverse ? 1 / rows : rows);
        bound.push_back(own->tensor());
      } else {
        bound.push_back(fixed.at(c_.fixed[k]));
      }
      r.frame->bind(plan_->base_of_input(i), bound.back().mutable_data_ptr());
    }
    for (size_t o = 0; o < plan_->num_outputs(); ++o) {
      const Type& t = r.sizes->types[static_cast<size_t>(plan_->outputs()[o])];
      const int donor = plan_->donor(o);
      if (donor >= 0) {
        r.outputs.push_back(bound[static_cast<size_t>(donor) - columns]);
      } else if (t.is_static()) {
        r.outputs.push_back(arena(at::IntArrayRef(t.dims.data(), t.dims.size()),
                                  at::TensorOptions().dtype(to_scalar_type(t.dtype)).device(device)));
      } else {
        r.outputs.emplace_back();
        continue;
      }
      r.frame->bind(plan_->base_of_output(o), r.outputs.back().mutable_data_ptr());
    }
    r.slots = r.sizes->any_slot;
    const auto number = [&](const char* role) -> const void* {
      const int o = output(role);
      return o < 0 ? nullptr : r.outputs[static_cast<size_t>(o)].const_data_ptr();
    };
    r.loss = number("loss");
    r.weights = number("rows");
    r.penalty = number("penalty");
    if (r.loss) r.loss_type = from_scalar_type(r.outputs[static_cast<size_t>(output("loss"))].scalar_type());
  } catch (...) {
    runs_.erase(it);
    throw;
  }
  return r;
}

void Program::run(Run& r) const {
  ortmod::run(*r.sizes, *r.frame);
  if (!r.slots) return;
  for (int i : r.sizes->slot_outputs)
    r.outputs[static_cast<size_t>(i)] = r.frame->tensor(plan_->outputs()[static_cast<size_t>(i)]);
  for (size_t v = 0; v < r.sizes->places.size(); ++v)
    if (r.sizes->places[v] == Place::kSlot) r.frame->drop(static_cast<int>(v));
}

namespace {
std::string op_name(const Node& n) { return (n.op->domain.empty() ? "" : n.op->domain + "::") + n.op->name; }
}  // namespace

std::vector<std::pair<std::string, bool>> Program::steps(const Run& r) const {
  std::vector<std::pair<std::string, bool>> list;
  for (size_t i = 0; i < r.sizes->list.steps.size(); ++i) {
    const auto joined = r.sizes->joined.find(i);
    std::string ops;
    for (const int item : joined == r.sizes->joined.end() ? std::vector<int>{r.sizes->step_item[i]} : joined->second) {
      if (!ops.empty()) ops += " + ";
      ops += item < 0 ? "copy" : op_name(*plan_->items()[static_cast<size_t>(item)].node);
    }
    list.emplace_back(std::move(ops), r.sizes->by_kernel[i] != 0);
  }
  return list;
}

}  // namespace ortmod
