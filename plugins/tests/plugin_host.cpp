/*!
 * \file
 * \brief Drive a plugin library through its life as TensorRT does, without TensorRT.
 *
 *     plugin_host PLUGIN.so [--silent] [CASE]
 *
 * Without a case, it tells the creator's names and fields. With one (plugin_host/case_file.h), the
 * plugin is created, negotiated with, configured, written to an engine and read back, attached to a
 * context and run: plainly, and on a GPU from a captured graph too. `--silent` gives the library no
 * logger. What happened goes to stdout, a fact a line, messages of the plugin as `log SEVERITY
 * ...`.
 *
 * Exit code: 0 all of it went well; 3 the plugin refused, as it may (`refused STEP`); 1 a rule of
 * the interface is broken (`broken ...`); 2 wrong usage.
 *
 * Built with EDGEATTN_EMULATOR it is for a plugin on the emulated kernels, and all memory is the
 * host's; without, it needs the CUDA runtime and a GPU.
 */
#include <algorithm>
#include <cstring>
#include <iostream>
#include <numeric>

#include "plugin_host/case_file.h"
#include "plugin_host/formats.h"
#include "plugin_host/library.h"
#include "plugin_host/memory.h"
#include "plugin_host/rules.h"
#include "plugin_host/shapes.h"

namespace plugin_host {
namespace {

using namespace nvinfer1;

class ResourceContext final : public IPluginResourceContext {
 public:
  IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
  IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
};

/*! What the build phase leaves behind. */
struct Engine {
  int32_t tactic;
  std::vector<Field> fields;
  Tensors tensors;
  std::vector<std::string> measured;  //!< outputs of the calls at the most common size
};

size_t bytes_of(PluginTensorDesc const& tensor) {
  size_t const entry = tensor.type == DataType::kFLOAT ? 4 : tensor.type == DataType::kINT8 ? 1 : 2;
  return std::accumulate(tensor.dims.d, tensor.dims.d + tensor.dims.nbDims, entry,
                         [](size_t product, int64_t extent) { return product * extent; });
}

std::vector<Field> fields_of(IPluginV3& plugin) {
  PluginFieldCollection const* const collection = runtime_of(plugin).getFieldsToSerialize();
  require(collection != nullptr && collection->nbFields > 0, "nothing to serialize");
  return copy_of(*collection);
}

Plugin clone_of(IPluginV3& plugin) {
  Plugin clone(plugin.clone());
  require(clone != nullptr && clone.get() != &plugin, "clone gives no other plugin");
  require(fields_of(*clone) == fields_of(plugin), "a clone differs from its original");
  return clone;
}

/*! Settle types, shapes and formats, and configure. */
Tensors configure(IPluginV3OneBuild& build, Case const& the_case) {
  require(build.getNbOutputs() == 1, "expected one output");
  auto const num_inputs = static_cast<int32_t>(the_case.inputs.size());
  std::vector<DataType> types;
  for (Input const& input : the_case.inputs) {
    types.push_back(input.type);
  }
  DataType output = DataType::kINT32;
  accept(build.getOutputDataTypes(&output, 1, types.data(), num_inputs), "types");
  std::cout << "output " << name_of(output) << '\n';

  std::vector<int64_t> const known = output_shape(build, the_case.inputs, the_case.opt, true);
  std::vector<int64_t> const shape = output_shape(build, the_case.inputs, the_case.opt, false);
  require(known.back() == shape.back() && shape[0] == -1, "the output's shape hangs on the map");
  std::cout << "channels " << shape.back() << '\n';

  std::vector<Tensors> const accepted = negotiate(build, describe(the_case, shape));
  std::cout << "combinations " << accepted.size() << '\n';
  Tensors const tensors = choose(accepted, the_case.inputs, output);
  accept(build.configurePlugin(tensors.data(), num_inputs, &tensors.back(), 1), "configure");
  require(build.getWorkspaceSize(tensors.data(), num_inputs, &tensors.back(), 1) == 0,
          "expected no workspace");
  return tensors;
}

std::vector<int32_t> tactics_of(IPluginV3OneBuild& build) {
  std::vector<int32_t> tactics(build.getNbTactics());
  accept(build.getValidTactics(tactics.data(), static_cast<int32_t>(tactics.size())), "tactics");
  std::cout << "tactics";
  for (size_t i = 0; i < tactics.size(); ++i) {
    std::cout << ' ' << tactics[i];
    require(tactics[i] > 0, "tactics are above 0");
    require(std::count(tactics.begin(), tactics.end(), tactics[i]) == 1, "tactics are unique");
  }
  std::cout << '\n';
  return tactics;
}

/*! The tensors of one call in the kernels' memory. */
class Call {
 public:
  Call(Case const& the_case, Tensors const& tensors, Run const& run)
      : descs_(at(tensors, run.map)), output_(bytes_of(descs_.back())) {
    for (size_t i = 0; i < the_case.inputs.size(); ++i) {
      std::string const& file = i == 0 ? run.qkv_file : the_case.inputs[i].file;
      std::string const bytes = read_bytes(file);
      require(bytes.size() == bytes_of(descs_[i]), "the tensor in " + file + " is of another size");
      buffers_.emplace_back(bytes);
      inputs_.push_back(buffers_.back().data());
    }
  }

  void announce(IPluginV3OneRuntime& runtime) const {
    accept(runtime.onShapeChange(descs_.data(), count(), &descs_.back(), 1), "onShapeChange");
  }

  void enqueue(IPluginV3OneRuntime& runtime, Stream const& stream) const {
    void* const output = output_.data();
    accept(runtime.enqueue(descs_.data(), &descs_.back(), inputs_.data(), &output, nullptr,
                           stream.get()),
           "enqueue");
  }

  /*! The output of one plain call, held against that of a captured one where there are any. */
  std::string run(IPluginV3OneRuntime& runtime, Stream const& stream) {
    enqueue(runtime, stream);
    stream.synchronize();
    std::string const plain = output_.download();
    output_.fill('\xFF');
    if (stream.capture_and_launch([&] { enqueue(runtime, stream); })) {
      require(output_.download() == plain, "a captured graph gives another output");
      std::cout << "captured\n";
    }
    return plain;
  }

 private:
  int32_t count() const { return static_cast<int32_t>(inputs_.size()); }

  std::vector<PluginTensorDesc> descs_;
  std::vector<Buffer> buffers_;
  std::vector<void const*> inputs_;
  Buffer output_;
};

/*! Build with one tactic. One plugin tries them all in turn, at the most common size alone. */
Engine build(IPluginV3& plugin, Tensors const& tensors, int32_t tactic, Case const& the_case) {
  IPluginV3OneRuntime& runtime = runtime_of(plugin);
  accept(runtime.setTactic(tactic), "setTactic");
  Engine engine{tactic, fields_of(plugin), tensors, {}};
  std::cout << "engine";
  for (Field const& field : engine.fields) {
    std::cout << ' ' << field.text();
  }
  std::cout << '\n';
  Stream const stream;
  for (Run const& run : the_case.runs) {
    if (run.map == the_case.opt) {
      Call call(the_case, tensors, run);
      call.announce(runtime);
      engine.measured.push_back(call.run(runtime, stream));
    }
  }
  return engine;
}

/*! Read the engine back, with what the case changes in it. */
Plugin deserialize(Library const& library, Engine const& engine, Case const& the_case) {
  std::vector<Field> fields;
  for (Field const& field : engine.fields) {
    auto const is_field = [&](auto const& other) { return other == field.name; };
    if (std::none_of(the_case.lost.begin(), the_case.lost.end(), is_field)) {
      fields.push_back(field);
    }
    for (Field const& replaced : the_case.replaced) {
      if (replaced.name == field.name) {
        fields.back() = replaced;
      }
    }
  }
  Plugin plugin = library.create(fields, TensorRTPhase::kRUNTIME);
  require(fields_of(*plugin) == fields, "an engine written again differs from the one read");
  return plugin;
}

void run_engine(Library const& library, Engine const& engine, Case const& the_case) {
  Plugin const plugin = deserialize(library, engine, the_case);
  ResourceContext context;
  Plugin const attached(runtime_of(*plugin).attachToContext(&context));
  require(attached != nullptr && attached != plugin, "attachToContext gives no other plugin");
  require(fields_of(*attached) == fields_of(*plugin), "an attached plugin differs");
  std::string const suffix = engine.tactic == 0 ? "" : "." + std::to_string(engine.tactic);
  auto measured = engine.measured.begin();
  Stream const stream;
  for (Run const& run : the_case.runs) {
    Call call(the_case, engine.tensors, run);
    call.announce(runtime_of(*attached));
    std::string const output = call.run(runtime_of(*attached), stream);
    if (run.map == the_case.opt) {
      require(output == *measured++, "the engine gives another output than its tactic gave");
    }
    write_bytes(run.out_file + suffix, output);
    std::cout << "ran " << run.out_file << suffix << '\n';
  }
}

void live(Library const& library, Case const& the_case) {
  Plugin const created = library.create(the_case.fields, TensorRTPhase::kBUILD);
  Plugin const plugin = clone_of(*created);
  IPluginV3OneBuild& build_face = build_of(*plugin);
  std::cout << "metadata " << build_face.getMetadataString() << '\n';
  std::cout << "timing_cache_id " << build_face.getTimingCacheID() << '\n';
  require(build_face.getNbTactics() == 0, "tactics before configurePlugin");
  if (the_case.inputs.empty()) {
    return;
  }
  Tensors const tensors = configure(build_face, the_case);
  std::vector<int32_t> tactics = tactics_of(build_face);
  if (!the_case.all_tactics) {
    tactics.clear();
  }
  tactics.insert(tactics.begin(), 0);
  Plugin const measured = clone_of(*plugin);
  std::vector<Engine> engines;
  for (int32_t const tactic : tactics) {
    engines.push_back(build(*measured, tensors, tactic, the_case));
  }
  for (Engine const& engine : engines) {
    run_engine(library, engine, the_case);
  }
}

}  // namespace
}  // namespace plugin_host

int main(int argc, char** argv) {
  using namespace plugin_host;
  bool const silent = argc > 2 && std::strcmp(argv[2], "--silent") == 0;
  int const case_at = silent ? 3 : 2;
  if (argc < 2 || argc > case_at + 1) {
    std::cerr << "usage: plugin_host PLUGIN.so [--silent] [CASE]\n";
    return 2;
  }
  try {
    Library const library(argv[1], !silent);
    if (argc == case_at) {
      library.introduce();
    } else {
      live(library, read_case(argv[case_at]));
    }
    return 0;
  } catch (Refused const& refused) {
    std::cout << "refused " << refused.what() << '\n';
    return 3;
  } catch (std::exception const& error) {
    std::cout << "broken " << error.what() << '\n';
    return 1;
  }
}
