#include "creator.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "attributes.h"
#include "identity.h"
#include "log.h"
#include "plugin.h"

namespace edgeattn::trt {
namespace {

using namespace nvinfer1;

/*! What the fields of a node or of an engine say. */
struct Creation {
  NodeAttributes attributes;
  int32_t tactic = 0;
};

constexpr char const* kNamespaceField = "plugin_namespace";

std::string name_of(PluginField const& field) { return field.name == nullptr ? "" : field.name; }

/*! Text of a field: ONNX's strings come with their NUL, those made by hand perhaps without. */
std::string string_of(PluginField const& field) {
  check_type(field, PluginFieldType::kCHAR);
  auto const* const first = static_cast<char const*>(field.data);
  return first == nullptr ? "" : std::string(first, strnlen(first, std::max(field.length, 0)));
}

void check_identity(PluginField const& field, char const* expected, TensorRTPhase phase) {
  std::string const got = string_of(field);
  if (got != expected) {
    throw Refusal(text("attribute ", field.name, " is \"", got, "\"; this library is \"", expected,
                       "\"",
                       phase == TensorRTPhase::kRUNTIME
                           ? ": build the engine again, or load the library that built it"
                           : ""));
  }
}

AttributeRule const* find_rule(std::string const& name) {
  std::vector<AttributeRule> const& rules = attribute_rules();
  auto const found = std::find_if(rules.begin(), rules.end(),
                                  [&](AttributeRule const& rule) { return rule.name == name; });
  return found == rules.end() ? nullptr : &*found;
}

void check_complete(std::set<std::string> const& given, TensorRTPhase phase) {
  for (AttributeRule const& rule : attribute_rules()) {
    if (rule.required && given.count(rule.name) == 0) {
      throw Refusal(text("attribute ", rule.name, " is missing; expected ",
                         rule.entries_per_group > 0 ? "one for each head group" : "one integer"));
    }
  }
  if (phase == TensorRTPhase::kRUNTIME) {
    for (char const* name : {kVersionField, kTacticField}) {
      if (given.count(name) == 0) {
        throw Refusal(text("the engine has no field ", name, ": build it again"));
      }
    }
  }
}

/*! First of all: the fields of another version may mean anything. */
void check_identity(PluginFieldCollection const& fields, TensorRTPhase phase) {
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    PluginField const& field = fields.fields[i];
    if (name_of(field) == kVersionField) {
      check_identity(field, EDGEATTN_PLUGIN_VERSION, phase);
    } else if (name_of(field) == kNamespaceField) {
      check_identity(field, EDGEATTN_PLUGIN_NAMESPACE, phase);
    }
  }
}

Creation read_fields(PluginFieldCollection const& fields, TensorRTPhase phase) {
  check_identity(fields, phase);
  Creation creation;
  std::set<std::string> given;
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    PluginField const& field = fields.fields[i];
    std::string const name = name_of(field);
    if (!given.insert(name).second) {
      throw Refusal(text("attribute ", name, " is given twice; expected once"));
    }
    if (AttributeRule const* const rule = find_rule(name)) {
      read_attribute(*rule, field, creation.attributes);
    } else if (name == kTacticField && phase == TensorRTPhase::kRUNTIME) {
      creation.tactic = read_integer(field);
    } else if (name != kVersionField && name != kNamespaceField) {
      throw Refusal(text("attribute \"", name, "\" is unknown; expected those of the operator's ",
                         "version " EDGEATTN_PLUGIN_VERSION));
    }
  }
  check_complete(given, phase);
  complete_groups(creation.attributes);
  return creation;
}

}  // namespace

AttentionPluginCreator::AttentionPluginCreator() {
  for (AttributeRule const& rule : attribute_rules()) {
    fields_.emplace_back(rule.name, nullptr, rule.type(), 1);
  }
  names_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

IPluginV3* AttentionPluginCreator::createPlugin(AsciiChar const* layer,
                                                PluginFieldCollection const* fields,
                                                TensorRTPhase phase) noexcept {
  std::string_view const name = layer == nullptr ? "" : layer;
  return guarded<IPluginV3*>(name, nullptr, [&] {
    PluginFieldCollection const none{};
    Creation creation = read_fields(fields == nullptr ? none : *fields, phase);
    return new AttentionPlugin(std::string(name), std::move(creation.attributes), creation.tactic);
  });
}

AsciiChar const* AttentionPluginCreator::getPluginName() const noexcept {
  return EDGEATTN_PLUGIN_NAME;
}

AsciiChar const* AttentionPluginCreator::getPluginVersion() const noexcept {
  return EDGEATTN_PLUGIN_VERSION;
}

AsciiChar const* AttentionPluginCreator::getPluginNamespace() const noexcept {
  return EDGEATTN_PLUGIN_NAMESPACE;
}

}  // namespace edgeattn::trt
