#include "violations.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <stdlib.h>

namespace edgeattn::emulator {

namespace {

constexpr size_t kMostTextBytes = 8 << 10;

void remove_all(std::string& text, std::string const& part) {
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at)) {
    text.erase(at, part.size());
  }
}

}  // namespace

void Violations::add(std::string const& sentence) {
  ++count_;
  if (sentence.empty() || text_.size() > kMostTextBytes) return;
  if (!text_.empty()) text_ += '\n';
  text_ += sentence;
}

void Violations::clear() {
  count_ = 0;
  text_.clear();
}

std::string kernel_name(void const* kernel) {
  Dl_info symbol;
  if (dladdr(kernel, &symbol) == 0 || symbol.dli_sname == nullptr) return "a kernel";
  int status = 0;
  char* const demangled = abi::__cxa_demangle(symbol.dli_sname, nullptr, nullptr, &status);
  if (demangled == nullptr) return symbol.dli_sname;
  std::string name = demangled;  // "void edgeattn::f_kernel<edgeattn::half_t, 32>(Params)"
  free(demangled);
  name.resize(name.rfind('('));
  if (name.compare(0, 5, "void ") == 0) name.erase(0, 5);
  remove_all(name, "edgeattn::");
  return name;
}

}  // namespace edgeattn::emulator
