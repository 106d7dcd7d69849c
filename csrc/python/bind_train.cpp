// Trainers for Python: made from graphs; a fit runs without the GIL and takes it for callbacks and signals only.
#include <algorithm>

#include "python/bind.h"
#include "train/trainer.h"

namespace py = pybind11;

namespace ortmod {

namespace {

const char* stop_name(Stop s) {
  switch (s) {
    case Stop::kEpochs:
      return "epochs";
    case Stop::kCallback:
      return "callback";
    case Stop::kInterrupted:
      return "interrupted";
    case Stop::kPatience:
      return "patience";
    case Stop::kDiverged:
      return "diverged";
  }
  return "";
}

py::dict report_of(const EpochReport& r) {
  static const auto key = [](const char* name) { return py::str(name).release(); };  // kept: fits have many epochs
  static const py::handle epoch = key("epoch"), loss = key("loss"), validation = key("validation_loss"),
                          rate = key("learning_rate"), norm = key("gradient_norm"), updates = key("updates");
  py::dict d;
  d[epoch] = r.epoch;
  d[loss] = r.loss;
  d[validation] = r.validation;
  d[rate] = r.rate;
  d[norm] = r.gradient_norm;
  d[updates] = r.updates;
  return d;
}

/// An exception of a callback ends the fit and is thrown when the fit has ended.
class Callbacks {
 public:
  explicit Callbacks(py::object on_epoch) : on_epoch_(std::move(on_epoch)) {}
  bool on_epoch(const EpochReport& r) {
    py::gil_scoped_acquire gil;
    try {
      const py::object answer = on_epoch_(report_of(r));
      return answer.is_none() || answer.cast<bool>();
    } catch (py::error_already_set& e) {
      error_ = std::make_unique<py::error_already_set>(std::move(e));
      return false;
    }
  }
  bool interrupted() {
    py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() == 0) return false;
    error_ = std::make_unique<py::error_already_set>();
    return true;
  }
  void rethrow() {
    if (error_) throw py::error_already_set(std::move(*error_));
  }

 private:
  py::object on_epoch_;
  std::unique_ptr<py::error_already_set> error_;
};

py::tuple fit(Trainer& t, const std::vector<at::Tensor>& columns, const std::vector<at::Tensor>& validation,
              const FitOptions& options, const py::object& on_epoch) {
  Callbacks callbacks(on_epoch);
  Trainer::OnEpoch epoch;
  if (!on_epoch.is_none()) epoch = [&](const EpochReport& r) { return callbacks.on_epoch(r); };
  FitResult result;
  {
    py::gil_scoped_release release;
    result = t.fit(columns, validation, options, epoch, [&] { return callbacks.interrupted(); });
  }
  callbacks.rethrow();
  py::list epochs;
  for (const EpochReport& r : result.epochs) epochs.append(report_of(r));
  return py::make_tuple(epochs, stop_name(result.stop), result.best);
}

py::dict progress_of(const Trainer& t) {
  const Progress& p = t.progress;
  py::dict d;
  d["epoch"] = p.epoch;
  d["updates"] = p.updates;
  d["samples"] = p.samples;
  d["plateaus"] = p.plateaus;
  d["without_progress"] = p.without_progress;
  d["best"] = p.best;
  d["seed"] = p.seed;
  return d;
}

void set_progress(Trainer& t, const py::dict& d) {
  Progress p = t.progress;
  const auto take = [&](const char* key, auto& to) {
    if (d.contains(key)) to = d[key].cast<std::decay_t<decltype(to)>>();
  };
  take("epoch", p.epoch);
  take("updates", p.updates);
  take("samples", p.samples);
  take("plateaus", p.plateaus);
  take("without_progress", p.without_progress);
  take("best", p.best);
  take("seed", p.seed);
  t.progress = p;
}

py::list weights_of(const Trainer& t) {
  py::list r;
  for (const ArenaPart& p : t.parts()) r.append(py::make_tuple(p.name, type_tuple(p.type)));
  return r;
}

}  // namespace

void bind_session(py::module_& m);

void bind_train(py::module_& m) {
  bind_session(m);
  py::class_<FitOptions>(m, "FitOptions")
      .def(py::init<>())
      .def_readwrite("epochs", &FitOptions::epochs)
      .def_readwrite("batch", &FitOptions::batch)
      .def_readwrite("shuffle", &FitOptions::shuffle)
      .def_readwrite("accumulate", &FitOptions::accumulate)
      .def_readwrite("validate_every", &FitOptions::validate_every)
      .def_readwrite("tol", &FitOptions::tol)
      .def_readwrite("patience", &FitOptions::patience)
      .def_readwrite("watch_validation", &FitOptions::watch_validation)
      .def_readwrite("keep_best", &FitOptions::keep_best)
      .def_readwrite("least_rate", &FitOptions::least_rate);
  py::class_<Trainer, std::shared_ptr<Trainer>>(m, "Trainer")
      .def(
          py::init([](const Model& model, const std::vector<std::string>& weights, const Model& update,
                      const Model& schedule, const std::vector<std::pair<Model, std::string>>& losses,
                      const std::string& loss_output, const std::string& row_weights, bool weighted, bool divide,
                      const std::vector<std::pair<Model, std::vector<std::string>>>& penalties, int arena,
                      double clip_norm, double clip_value, bool report_norm, bool training, const std::string& device) {
            TrainerSpec s;
            s.step.model = model.graph;
            s.step.weights = weights;
            for (const auto& [graph, output] : losses) s.step.losses.push_back({graph.graph, output});
            s.step.loss_output = loss_output;
            s.step.row_weights = row_weights;
            s.step.weighted = weighted;
            s.step.divide = divide;
            for (const auto& [graph, names] : penalties) s.step.penalties.push_back({graph.graph, names});
            s.step.update = update.graph;
            s.step.arena = static_cast<DType>(arena);
            s.step.clip_norm = clip_norm;
            s.step.clip_value = clip_value;
            s.step.report_norm = report_norm;
            s.step.training = training;
            s.schedule = schedule.graph;
            s.device = at::Device(device);
            py::gil_scoped_release release;
            return std::make_shared<Trainer>(std::move(s));
          }),
          py::arg("model"), py::arg("weights"), py::arg("update"), py::arg("schedule"), py::kw_only(),
          py::arg("losses") = std::vector<std::pair<Model, std::string>>{}, py::arg("loss_output") = "",
          py::arg("row_weights") = "", py::arg("weighted") = false, py::arg("divide") = true,
          py::arg("penalties") = std::vector<std::pair<Model, std::vector<std::string>>>{}, py::arg("arena") = 0,
          py::arg("clip_norm") = 0.0, py::arg("clip_value") = 0.0, py::arg("report_norm") = false,
          py::arg("training") = true, py::arg("device") = "cpu")
      .def("fit", &fit, py::arg("columns"), py::arg("validation"), py::arg("options"), py::arg("on_epoch") = py::none())
      .def("step", &Trainer::step, py::call_guard<py::gil_scoped_release>())
      .def("loss",
           [](Trainer& t, const std::vector<at::Tensor>& columns) {
             at::Tensor scores;
             double loss;
             {
               py::gil_scoped_release release;
               loss = t.loss(columns, &scores);
             }
             return py::make_tuple(loss, scores.defined() ? py::cast(scores) : py::none());
           })
      .def("outputs", &Trainer::outputs, py::call_guard<py::gil_scoped_release>())
      .def("weight", &Trainer::weight)
      .def("set_weight", &Trainer::set_weight)
      .def("state", &Trainer::state)
      .def("tensors", &Trainer::tensors)
      .def_property_readonly("states", &Trainer::states)
      .def_property_readonly("buffers", &Trainer::buffers)
      .def_property_readonly("weights", &weights_of)
      .def_property_readonly("columns",
                             [](const Trainer& t) {
                               py::list r;
                               for (size_t i = 0; i < t.columns().size(); ++i)
                                 r.append(py::make_tuple(t.columns()[i], type_tuple(t.column_type(i))));
                               return r;
                             })
      .def_property("progress", &progress_of, &set_progress)
      .def_property_readonly("flat", &Trainer::flat)
      .def_property_readonly("steps", &Trainer::steps)
      .def_property_readonly("graph",
                             [](const Trainer& t) { return Model{std::shared_ptr<const Graph>(t.graph().clone())}; });
}

}  // namespace ortmod
