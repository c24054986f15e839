/*!
 * \file
 * \brief What a run of the host driver is told to do: a text file, one fact a line.
 *
 *     field  NAME TYPE VALUE...              an attribute of the node
 *     qkv    TYPE CHANNELS                   the first input; without it, the plugin is only
 * created input  NAME TYPE FILE EXTENT...        one of the others, in the node's order range  B H
 * W  B H W  B H W             shortest, most common and largest map run    B H W QKV_FILE OUT_FILE
 * one call, in the engine's life time tactics all                            an engine for every
 * tactic: OUT_FILE.TACTIC engine NAME TYPE VALUE...              a field of the engine, put in the
 * place of its own lost   NAME                            a field of the engine that is not there
 * any more
 *
 * Words are separated by blanks. FILEs hold the tensors' bytes and nothing else.
 */
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "fields.h"

namespace plugin_host {

using Map = std::array<int64_t, 3>;  //!< batch, height, width

struct Input {
  std::string name;
  nvinfer1::DataType type;
  std::string file;
  std::vector<int64_t> shape;
};

struct Run {
  Map map;
  std::string qkv_file;
  std::string out_file;
};

struct Case {
  std::vector<Field> fields;
  std::vector<Input> inputs;  //!< qkv first, its map filled with -1
  Map min{}, opt{}, max{};
  std::vector<Run> runs;
  bool all_tactics = false;
  std::vector<Field> replaced;
  std::vector<std::string> lost;
};

Case read_case(std::string const& path);

/*! \brief A type as cases spell it. */
std::string name_of(nvinfer1::DataType type);

std::string read_bytes(std::string const& path);
void write_bytes(std::string const& path, std::string const& bytes);

}  // namespace plugin_host
