// Graph -> ModelProto, as bytes or as a file with external data.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>

#include "google/protobuf/arena.h"
#include "graph/proto.h"
#include "graph/proto_io.h"
#include "graph/schema.h"
#include "ortmod_onnx.pb.h"

namespace ortmod {
namespace onnx = ortmod_onnx;
namespace {

constexpr int kOldestIr = 4;  // since then initializers need not be inputs

[[noreturn]] void bad(const std::string& what) { fail(ErrorKind::kModel, "export", what); }

/// Writes tensors as raw data, or remembers them for the data file.
class Writer {
 public:
  Writer(const WriteOptions& options, bool external, std::string location)
      : options_(options), external_(external), location_(std::move(location)) {}

  struct Piece {
    LiteralPtr literal;
    size_t offset;
  };
  const std::vector<Piece>& pieces() const { return pieces_; }
  void graph(const Graph& g, onnx::GraphProto* p, bool top);

 private:
  void initializer(const Value* v, onnx::TensorProto* t, bool top);
  void node(const Node& n, onnx::NodeProto* p);
  void attr(const std::string& key, const Attr& value, const Node& n, onnx::AttributeProto* a);
  /// The type that the standard gives ZipMap's output: a sequence of maps from the class to a float.
  void write_maps(const Node& zip, onnx::TypeProto* p) {
    auto* map = p->mutable_sequence_type()->mutable_elem_type()->mutable_map_type();
    map->set_key_type(static_cast<int>(zip.has("classlabels_strings") ? DType::kString : DType::kInt64));
    map->mutable_value_type()->mutable_tensor_type()->set_elem_type(static_cast<int>(DType::kFloat));
  }

  void value_info(const Value* v, onnx::ValueInfoProto* p);

  const WriteOptions& options_;
  const bool external_;
  const std::string location_;
  size_t end_ = 0;
  std::vector<Piece> pieces_;
};

template <class List>
void metadata(const Metadata& from, List* to) {
  for (const auto& [key, value] : from) {
    auto* e = to->Add();
    e->set_key(key);
    e->set_value(value);
  }
}

void Writer::initializer(const Value* v, onnx::TensorProto* t, bool top) {
  LiteralPtr l = v->literal;
  if (top && options_.weights)
    if (const auto it = options_.weights->find(v->name); it != options_.weights->end()) l = it->second;
  constexpr size_t kInline = 1024, kAlign = 64;
  if (!external_ || l->bytes() < kInline || l->dtype() == DType::kString) return write_tensor(*l, v->name, t);
  t->set_name(v->name);
  t->set_data_type(static_cast<int>(l->dtype()));
  for (const Dim d : l->dims()) t->add_dims(d);
  t->set_data_location(onnx::TensorProto::EXTERNAL);
  end_ = (end_ + kAlign - 1) / kAlign * kAlign;
  const auto entry = [&](const char* key, std::string value) {
    auto* e = t->add_external_data();
    e->set_key(key);
    e->set_value(std::move(value));
  };
  entry("location", location_);
  entry("offset", std::to_string(end_));
  entry("length", std::to_string(l->bytes()));
  pieces_.push_back({l, end_});
  end_ += l->bytes();
}

void Writer::value_info(const Value* v, onnx::ValueInfoProto* p) {
  p->set_name(v->name);
  if (v->producer && v->producer->is("ai.onnx.ml", "ZipMap")) return write_maps(*v->producer, p->mutable_type());
  if (v->type.dtype != DType::kUndefined) write_type(v->type, p->mutable_type());
  metadata(*v->metadata, p->mutable_metadata_props());
}

void Writer::graph(const Graph& g, onnx::GraphProto* p, bool top) {
  p->set_name(g.name.empty() ? "graph" : g.name);
  if (!g.doc.empty()) p->set_doc_string(g.doc);
  for (const Value* v : g.inputs) {
    value_info(v, p->add_input());
    if (v->literal) initializer(v, p->add_initializer(), top);
  }
  for (const Value* v : g.weights) {
    initializer(v, p->add_initializer(), top);
    if (!v->metadata.empty()) value_info(v, p->add_value_info());
  }
  const ValueSet outputs(g.outputs.begin(), g.outputs.end());
  for (const Node* n : g.nodes()) {
    node(*n, p->add_node());
    if (!options_.value_info) continue;
    for (const Value* v : n->outputs)
      if (v && v->type.dtype != DType::kUndefined && (top || !v->metadata.empty()) && !outputs.contains(v))
        value_info(v, p->add_value_info());
  }
  for (const Value* v : g.outputs) value_info(v, p->add_output());
}

void Writer::attr(const std::string& key, const Attr& value, const Node& n, onnx::AttributeProto* a) {
  using A = onnx::AttributeProto;
  a->set_name(key);
  if (const auto* i = std::get_if<int64_t>(&value)) {
    a->set_type(A::INT);
    a->set_i(*i);
  } else if (const auto* f = std::get_if<double>(&value)) {
    a->set_type(A::FLOAT);
    a->set_f(static_cast<float>(*f));
  } else if (const auto* s = std::get_if<std::string>(&value)) {
    a->set_type(A::STRING);
    a->set_s(*s);
  } else if (const auto* ints = std::get_if<std::vector<int64_t>>(&value)) {
    a->set_type(A::INTS);
    a->mutable_ints()->Add(ints->begin(), ints->end());
  } else if (const auto* floats = std::get_if<std::vector<double>>(&value)) {
    a->set_type(A::FLOATS);
    for (const double x : *floats) a->add_floats(static_cast<float>(x));
  } else if (const auto* strings = std::get_if<std::vector<std::string>>(&value)) {
    a->set_type(A::STRINGS);
    for (const std::string& x : *strings) a->add_strings(x);
  } else if (const auto* l = std::get_if<LiteralPtr>(&value)) {
    a->set_type(A::TENSOR);
    write_tensor(**l, "", a->mutable_t());
  } else if (const auto* g = std::get_if<std::shared_ptr<Graph>>(&value)) {
    a->set_type(A::GRAPH);
    graph(**g, a->mutable_g(), false);
  } else if (const auto* gs = std::get_if<std::vector<std::shared_ptr<Graph>>>(&value)) {
    a->set_type(A::GRAPHS);
    for (const auto& x : *gs) graph(*x, a->add_graphs(), false);
  } else if (const auto* t = std::get_if<std::shared_ptr<const Type>>(&value)) {
    a->set_type(A::TYPE_PROTO);
    write_type(**t, a->mutable_tp());
  } else {
    fail(ErrorKind::kModel, "export", "attribute \"" + key + "\" refers to an attribute of a function", n);
  }
}

void Writer::node(const Node& n, onnx::NodeProto* p) {
  const int opset = n.graph->opset(n.op->domain);
  if (n.version != opset && n.op->domain != "ortmod" &&
      since_version(n.op->domain, n.op->name, n.version) != since_version(n.op->domain, n.op->name, opset))
    fail(ErrorKind::kModel, "export",
         "the node has the form of opset " + std::to_string(n.version) + ", but the model imports " +
             std::to_string(opset),
         n);
  p->set_op_type(n.op->name);
  if (!n.op->domain.empty()) p->set_domain(n.op->domain);
  if (!n.name.empty()) p->set_name(n.name);
  for (const Value* v : n.inputs) p->add_input(v ? v->name : std::string());
  for (const Value* v : n.outputs) p->add_output(v ? v->name : std::string());
  for (const auto& [key, value] : n.attrs) attr(key, value, n, p->add_attribute());
  metadata(*n.metadata, p->mutable_metadata_props());
}

bool has_own_nodes(const Graph& g) {
  const auto inside = [](const Attr& a) {
    if (const auto* s = std::get_if<std::shared_ptr<Graph>>(&a)) return has_own_nodes(**s);
    const auto* list = std::get_if<std::vector<std::shared_ptr<Graph>>>(&a);
    return list && std::any_of(list->begin(), list->end(), [](const auto& s) { return has_own_nodes(*s); });
  };
  return std::any_of(g.nodes().begin(), g.nodes().end(), [&](const Node* n) {
    return n->op->domain == "ortmod" ||
           std::any_of(n->attrs.begin(), n->attrs.end(), [&](const auto& a) { return inside(a.second); });
  });
}

void header(const Graph& g, const WriteOptions& options, onnx::ModelProto& m) {
  m.set_ir_version(std::max<int64_t>(g.ir_version ? g.ir_version : ir_version_of_opset(g.opset()), kOldestIr));
  m.set_producer_name(options.producer);
  for (const auto& [domain, version] : g.opsets) {
    if (domain == "ortmod") continue;
    auto* o = m.add_opset_import();
    o->set_domain(domain);
    o->set_version(version);
  }
  if (has_own_nodes(g)) {
    auto* o = m.add_opset_import();
    o->set_domain("ortmod");
    o->set_version(1);
  }
  metadata(g.metadata, m.mutable_metadata_props());
}

/// A message in a few large pieces of memory: those of a large model are hundreds of thousands.
class Message {
 public:
  Message(const Graph& g, const WriteOptions& options) { header(g, options, *m_); }
  onnx::ModelProto* operator->() { return m_; }
  onnx::ModelProto& operator*() { return *m_; }

 private:
  google::protobuf::Arena arena_;
  onnx::ModelProto* m_ = google::protobuf::Arena::CreateMessage<onnx::ModelProto>(&arena_);
};

/// Bytes of all tensors of the graph and of its sub-graphs.
size_t tensor_bytes(const Graph& g) {
  size_t n = 0;
  const auto inner = [&](const Attr& a) {
    if (const auto* l = std::get_if<LiteralPtr>(&a)) n += (*l)->bytes();
    if (const auto* s = std::get_if<std::shared_ptr<Graph>>(&a)) n += tensor_bytes(**s);
    if (const auto* list = std::get_if<std::vector<std::shared_ptr<Graph>>>(&a))
      for (const auto& s : *list) n += tensor_bytes(*s);
  };
  for (const Value* v : g.weights) n += v->literal->bytes();
  for (const Value* v : g.inputs) n += v->literal ? v->literal->bytes() : 0;
  for (const Node* x : g.nodes())
    for (const auto& [key, a] : x->attrs) inner(a);
  return n;
}

std::string serialized(const onnx::ModelProto& m) {
  const size_t size = m.ByteSizeLong();
  if (size > INT_MAX)
    bad("the model would be larger than 2 GiB: got " + std::to_string(size) + " bytes; write it to a file");
  std::string bytes;
  if (!m.SerializeToString(&bytes)) bad("the model cannot be serialized");
  return bytes;
}

/// A file that takes its name when it is complete.
class NewFile {
 public:
  explicit NewFile(std::string path) : path_(std::move(path)), temporary_(path_ + ".tmp" + std::to_string(getpid())) {
    fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd_ < 0) refuse();
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile() {
    if (fd_ >= 0) close(fd_);
    if (!done_) unlink(temporary_.c_str());
  }
  void write(const void* data, size_t size) {
    const char* p = static_cast<const char*>(data);
    while (size) {
      const ssize_t n = ::write(fd_, p, std::min<size_t>(size, 1u << 30));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) refuse();
      p += n;
      size -= static_cast<size_t>(n);
      written_ += static_cast<size_t>(n);
    }
  }
  size_t written() const { return written_; }
  void publish() {
    const int fd = fd_;
    fd_ = -1;
    if (close(fd) != 0 || rename(temporary_.c_str(), path_.c_str()) != 0) refuse();
    done_ = true;
  }

 private:
  [[noreturn]] void refuse() const {
    bad("the file \"" + shown(path_) + "\" cannot be written (" + std::strerror(errno) + ")");
  }
  std::string path_, temporary_;
  int fd_ = -1;
  size_t written_ = 0;
  bool done_ = false;
};

}  // namespace

std::string to_bytes(const Graph& g, const WriteOptions& options) {
  if (tensor_bytes(g) > INT_MAX) bad("the model would be larger than 2 GiB: write it to a file");
  Message m(g, options);
  Writer(options, false, "").graph(g, m->mutable_graph(), true);
  return serialized(*m);
}

void to_file(const Graph& g, const std::string& path, const WriteOptions& options, size_t inline_limit) {
  const bool external = tensor_bytes(g) > inline_limit;
  const size_t slash = path.rfind('/');
  const std::string data_path = path + ".data";
  Message m(g, options);
  Writer writer(options, external, data_path.substr(slash == std::string::npos ? 0 : slash + 1));
  writer.graph(g, m->mutable_graph(), true);
  const std::string bytes = serialized(*m);
  NewFile model(path);
  model.write(bytes.data(), bytes.size());
  if (external) {
    NewFile data(data_path);
    const std::string zeros(64, '\0');
    for (const Writer::Piece& p : writer.pieces()) {
      data.write(zeros.data(), p.offset - data.written());
      data.write(p.literal->data(), p.literal->bytes());
    }
    data.publish();
  }
  model.publish();
}

}  // namespace ortmod
