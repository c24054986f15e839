#include "library.h"

#include <dlfcn.h>

#include <cstring>
#include <iostream>

#include "rules.h"

namespace plugin_host {
namespace {

using namespace nvinfer1;

template <typename Function>
Function* find(void* library, char const* name) {
  auto* const found = reinterpret_cast<Function*>(dlsym(library, name));
  require(found != nullptr, std::string("the library does not export ") + name);
  return found;
}

template <typename Capability>
Capability& capability(IPluginV3& plugin, PluginCapabilityType type, char const* kind) {
  IPluginCapability* const face = plugin.getCapabilityInterface(type);
  require(face != nullptr, std::string("the plugin is no ") + kind);
  InterfaceInfo const info = face->getInterfaceInfo();
  require(std::strcmp(info.kind, kind) == 0 && info.major == 1,
          std::string("the plugin gives an interface ") + info.kind + " for " + kind);
  return static_cast<Capability&>(*face);
}

}  // namespace

void Logger::log(Severity severity, AsciiChar const* message) noexcept {
  static constexpr char const* kNames[] = {"INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"};
  std::cout << "log " << kNames[static_cast<int32_t>(severity)] << ' ' << message << '\n';
}

Library::Library(std::string const& path, bool with_logger) {
  // Never closed, as TensorRT's registry outlives the plugins of a library.
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw Broken(dlerror());
  }
  static LoggerFinder finder;
  find<void(ILoggerFinder*)>(library, "setLoggerFinder")(with_logger ? &finder : nullptr);
  int32_t count = 0;
  auto* const get_creators =
      find<IPluginCreatorInterface* const*(int32_t&)>(library, "getCreators");
  IPluginCreatorInterface* const* const creators = get_creators(count);
  require(count == 1 && creators != nullptr, "expected one creator");
  InterfaceInfo const info = creators[0]->getInterfaceInfo();
  require(std::strcmp(info.kind, "PLUGIN CREATOR_V3ONE") == 0, "expected a creator of V3 plugins");
  creator_ = static_cast<IPluginCreatorV3One*>(creators[0]);
}

void Library::introduce() const {
  std::cout << "creator " << creator_->getPluginName() << ' ' << creator_->getPluginVersion()
            << " \"" << creator_->getPluginNamespace() << "\"\n";
  PluginFieldCollection const* const names = creator_->getFieldNames();
  require(names != nullptr && names->nbFields > 0, "the creator advertises no fields");
  for (int32_t i = 0; i < names->nbFields; ++i) {
    std::cout << "advertised " << names->fields[i].name << ' '
              << (names->fields[i].type == PluginFieldType::kFLOAT32 ? "float32" : "int32") << '\n';
  }
}

Plugin Library::create(std::vector<Field> const& fields, TensorRTPhase phase) const {
  Collection const collection(fields);
  Plugin plugin(creator_->createPlugin("layer_7", collection.get(), phase));
  if (plugin == nullptr) {
    throw Refused(phase == TensorRTPhase::kBUILD ? "create" : "deserialize");
  }
  IPluginV3OneCore& core = core_of(*plugin);
  require(std::strcmp(core.getPluginName(), creator_->getPluginName()) == 0 &&
              std::strcmp(core.getPluginVersion(), creator_->getPluginVersion()) == 0 &&
              std::strcmp(core.getPluginNamespace(), creator_->getPluginNamespace()) == 0,
          "plugin and creator have different names");
  return plugin;
}

IPluginV3OneCore& core_of(IPluginV3& plugin) {
  return capability<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE, "PLUGIN_V3ONE_CORE");
}

IPluginV3OneBuild& build_of(IPluginV3& plugin) {
  return capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD, "PLUGIN_V3ONE_BUILD");
}

IPluginV3OneRuntime& runtime_of(IPluginV3& plugin) {
  return capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME,
                                         "PLUGIN_V3ONE_RUNTIME");
}

}  // namespace plugin_host
