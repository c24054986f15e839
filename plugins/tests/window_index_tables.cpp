/*!
 * \file
 * \brief Writes out the index rule of the kernels, for a test that compares it with the operator's
 * judge (tests/plugins/test_window_index.py).
 *
 * One query per line of the input, one line of integers per answer; a window of 0 is the whole
 * axis, a source of -1 padding. ORDER is 0 (pad then roll) or 1 (roll then pad).
 *
 *   block LENGTH WINDOW SHIFT ORDER              of each place: source, label
 *   grid LENGTH WINDOW                           of each window's members: source
 *   neighborhood LENGTH WINDOW DILATION CAUSAL   of each query: number of keys; of each key:
 * source, query - key within the class
 */
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "edgeattn/axis_plan.h"
#include "edgeattn/window_index.h"

namespace edgeattn {
namespace {

void write_block(std::istream& query) {
  int32_t length, window, shift, order;
  query >> length >> window >> shift >> order;
  Axis const axis = plan_window_axis(length, window, shift, kBlock);
  for (int32_t i = 0; i < axis.num_windows * axis.window; ++i) {
    Place const place = block_place(axis, length, order, i);
    std::cout << place.source << ' ' << place.label << ' ';
  }
}

void write_grid(std::istream& query) {
  int32_t length, window;
  query >> length >> window;
  Axis const axis = plan_window_axis(length, window, 0, kGrid);
  for (int32_t a = 0; a < axis.num_windows; ++a) {
    for (int32_t g = 0; g < axis.window; ++g) {
      std::cout << grid_source(axis, length, a, g) << ' ';
    }
  }
}

/*! The other axis has one token, so that the tiles are as long as they get. */
void write_neighborhood(std::istream& query) {
  int32_t length, window, dilation, causal;
  query >> length >> window >> dilation >> causal;
  int32_t const lengths[2] = {1, length};
  int32_t const windows[2] = {1, window};
  int32_t const dilations[2] = {1, dilation};
  constexpr int32_t kTileQueries = 4;  // several tiles for most lengths
  Axis axes[2];
  plan_neighborhood_axes(lengths, windows, dilations, kTileQueries, axes);
  Axis const axis = axes[1];

  std::vector<std::string> answers(static_cast<size_t>(length));
  for (int32_t a = 0; a < axis.num_windows; ++a) {
    NeighborhoodTile const tile = neighborhood_tile(axis, length, causal, a);
    for (int32_t q = 0; q < axis.queries; ++q) {
      int32_t const j = tile.first_query + q;
      int32_t const source = neighborhood_source(axis, tile, j);
      if (source < 0) continue;
      Span const span = neighbours(axis.window, causal, tile.tokens, j);
      if (span.first < tile.first_key || span.first + span.count > tile.first_key + axis.keys) {
        std::cerr << "token " << source << " sees keys outside of its tile's\n";
        std::exit(1);
      }
      std::ostringstream answer;
      answer << span.count << ' ';
      for (int32_t key = span.first; key < span.first + span.count; ++key) {
        answer << neighborhood_source(axis, tile, key) << ' ' << j - key << ' ';
      }
      answers[static_cast<size_t>(source)] = answer.str();
    }
  }
  for (std::string const& answer : answers) std::cout << answer;
}

}  // namespace
}  // namespace edgeattn

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream query(line);
    std::string mode;
    query >> mode;
    if (mode == "block") edgeattn::write_block(query);
    if (mode == "grid") edgeattn::write_grid(query);
    if (mode == "neighborhood") edgeattn::write_neighborhood(query);
    std::cout << '\n';
  }
}
