/*!
 * \file
 * \brief A CTA's shared memory and, for every byte of it, who touched it last.
 *
 * Races are found by what orders accesses, not by luck. Time is counted twice: an *epoch* ends with
 * each sync_cta, a *step* of a warp with each of its sync_warp. An access comes before a later one
 * if the same thread made both, if an epoch ended in between, or if both are of one warp and a step
 * ended in between. Nothing else orders, and this relation is transitive, so it is enough to know
 * of each byte the last write and the reads of the current epoch.
 *
 * State is kept for 16 bytes at once; for words of 4, and again for single bytes, where a part was
 * accessed alone.
 */
#pragma once

#include <stdint.h>

#include <vector>

#pragma GCC visibility push(hidden)

namespace edgeattn::emulator {

/*! \brief Who makes an access, and when. */
struct Accessor {
  int32_t thread;
  int32_t warp;
  uint32_t step;   //!< of its warp
  uint32_t lanes;  //!< lanes of its warp on whose behalf: its own, or all in ldmatrix
};

/*! \brief Why an access is wrong. */
struct Fault {
  enum Kind : int32_t { kNone, kUnwritten, kInFlight, kRacesWrite, kRacesRead };
  Kind kind;
  int32_t offset_bytes;  //!< of the first byte concerned
  int32_t thread;        //!< the one that accessed it before; -1: several
};

class SharedMemory {
 public:
  void begin_launch(int32_t bytes);
  void begin_cta();
  void end_epoch() { ++epoch_; }

  int32_t bytes() const { return bytes_; }
  unsigned char* data() const { return data_; }

  // What is wrong with an access, or null.
  Fault const* read(Accessor const& who, int32_t offset_bytes, int32_t bytes);
  Fault const* write(Accessor const& who, int32_t offset_bytes, int32_t bytes);

  /*! \brief A write that takes until finish_copy; in between the bytes are nobody's. */
  Fault const* begin_copy(Accessor const& who, int32_t offset_bytes, int32_t bytes);
  void finish_copy(Accessor const& who, int32_t offset_bytes, int32_t bytes);

 private:
  struct Cell {
    uint32_t write_epoch;
    uint32_t write_step;
    uint32_t read_epoch;  // 0: not read since it was written
    uint32_t read_step;
    uint32_t read_lanes;
    int16_t writer;      // thread
    int8_t read_warp;    // kSeveralWarps: in read_epoch, several
    bool in_flight : 1;  // of a copy
    bool split : 1;      // see the cells of the parts
  };
  static constexpr int8_t kSeveralWarps = -1;

  // Cells of 16, 4 and 1 bytes.
  static constexpr int32_t kLevels = 3;
  static constexpr int32_t kCellBytes[kLevels] = {16, 4, 1};

  template <int32_t kLevel, bool kWrites, typename Judge>
  void visit(int32_t begin, int32_t end, Judge const& judge);

  Fault::Kind read(Cell& cell, Accessor const& who) const;
  Fault::Kind write(Cell& cell, Accessor const& who) const;
  bool after_write(Cell const& cell, Accessor const& who) const;
  bool after_reads(Cell const& cell, Accessor const& who) const;
  Fault const* note(Fault::Kind kind, int32_t offset_bytes, Cell const& cell, Accessor const& who);

  int32_t bytes_ = 0;
  unsigned char* data_ = nullptr;    // aligned to 128 bytes, as on the device
  uint32_t epoch_ = 0;               // 0: before the first
  uint32_t first_epoch_of_cta_ = 0;  // what was written before counts as not written
  std::vector<unsigned char> storage_;
  std::vector<Cell> cells_[kLevels];
  Fault fault_{};  // the last one
};

}  // namespace edgeattn::emulator

#pragma GCC visibility pop
