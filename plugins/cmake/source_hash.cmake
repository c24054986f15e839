# What the libraries say of their own source.

# The sha256 of a list of all sources: a line `<sha256 of the file>  <path>` for each, sorted by
# path, as the program sha256sum writes it. `edgeattn/plugin/source.py` follows the same rule.
function(edgeattn_source_hash result)
  file(
    GLOB_RECURSE paths CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}"
    include/* launch/* trt/*)
  list(SORT paths)
  set(lines "")
  foreach(path IN LISTS paths)
    file(SHA256 "${CMAKE_CURRENT_SOURCE_DIR}/${path}" digest)
    string(APPEND lines "${digest}  ${path}\n")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${path}")
  endforeach()
  string(SHA256 digest "${lines}")
  set(${result} "${digest}" PARENT_SCOPE)
endfunction()

# The version in edgeattn/__init__.py, which stands beside plugins/ in a checkout and two folders up
# in an installed package.
function(edgeattn_version_of_checkout result)
  foreach(candidate ../edgeattn/__init__.py ../../__init__.py)
    set(path "${CMAKE_CURRENT_SOURCE_DIR}/${candidate}")
    if(EXISTS "${path}")
      file(STRINGS "${path}" line REGEX "^__version__")
      string(REGEX REPLACE ".*\"(.*)\".*" "\\1" version "${line}")
      set(${result} "${version}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()
