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
 * State is kept for words of 4 bytes, and for single bytes of the words that were accessed in part.
 */
#pragma once

#include <stdint.h>

#include <vector>

#pragma GCC visibility push(hidden)

namespace edgeattn::emulator {

/*! \brief Who makes an access, and when. */
struct Accessor {
  int32_t thread;
  uint32_t step;   //!< of its warp
  uint32_t lanes;  //!< lanes of its warp on whose behalf: its own, or all in ldmatrix
};

/*! \brief Why an access is wrong. */
struct Fault {
  enum Kind : uint8_t { kNone, kUnwritten, kInFlight, kRacesWrite, kRacesRead };
  Kind kind = kNone;
  int32_t offset_bytes = 0;  //!< of the first byte concerned
  int32_t thread = -1;       //!< the one that accessed it before; -1: several
};

class SharedMemory {
 public:
  void begin_launch(int32_t bytes);
  void begin_cta();
  void end_epoch() { ++epoch_; }

  int32_t bytes() const { return bytes_; }
  unsigned char* data() const { return data_; }

  Fault read(Accessor who, int32_t offset_bytes, int32_t bytes);
  Fault write(Accessor who, int32_t offset_bytes, int32_t bytes);

  /*! \brief A write that takes until finish_copy; in between the bytes are nobody's. */
  Fault begin_copy(Accessor who, int32_t offset_bytes, int32_t bytes);
  void finish_copy(Accessor who, int32_t offset_bytes, int32_t bytes);

 private:
  struct Cell {
    uint32_t write_epoch;
    uint32_t write_step;
    uint32_t read_epoch;
    uint32_t read_step;
    uint32_t read_lanes;
    int16_t writer;      // thread
    int8_t read_warp;    // kSeveralWarps: in read_epoch, several
    bool in_flight : 1;  // of a copy
    bool split : 1;      // see the cells of the single bytes
  };
  static constexpr int8_t kSeveralWarps = -1;

  template <typename Judge>
  Fault visit(Accessor who, int32_t offset_bytes, int32_t bytes, Judge judge);

  bool after_write(Cell const& cell, Accessor who) const;
  bool after_reads(Cell const& cell, Accessor who) const;
  Fault::Kind read(Cell& cell, Accessor who) const;
  Fault::Kind write(Cell& cell, Accessor who) const;
  static int32_t earlier_thread(Cell const& cell, Fault::Kind kind, Accessor who);

  int32_t bytes_ = 0;
  unsigned char* data_ = nullptr;    // aligned to 128 bytes, as on the device
  uint32_t epoch_ = 0;               // 0: before the first
  uint32_t first_epoch_of_cta_ = 0;  // what was written before counts as not written
  std::vector<unsigned char> storage_;
  std::vector<Cell> words_;
  std::vector<Cell> single_bytes_;
};

}  // namespace edgeattn::emulator

#pragma GCC visibility pop
