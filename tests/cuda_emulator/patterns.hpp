// What emulated kernels compute: a pattern that depends on every byte read and on which kernel it is.
#pragma once
#include <string>
#include <vector>

#include "world.hpp"

namespace emu {

uint64_t mix(uint64_t x);
uint64_t digest(const Range& range);
void fill(const Range& range, uint64_t hash);

// A pointer that a library hands to a kernel. What lies behind it is the rest of the tensor it points into; a pointer
// into scratch stands for 64 bytes there, and one to host memory for nothing.
struct Access {
    const void* at;
    bool write;
};

// The stream that a library means; null and the two special handles mean the standard one.
Stream* known(Stream* stream);

// Device memory that a library keeps for as long as one of its handles lives.
class Held {
  public:
    explicit Held(size_t size);
    ~Held();
    Held(const Held&) = delete;

  private:
    uintptr_t at_ = 0;
};

// How many bytes scratch holds from an address on, as far as known: what a copy or a kernel last wrote there.
void wrote(uintptr_t at, size_t size);

// What one operator of a segment reads and writes; a `view` leaves its bytes alone.
struct Operator {
    std::string type;
    std::vector<Range> reads, writes;
    bool view;
};

// Something that writes from this address on was queued.
void queued(uintptr_t at);

// Tell which segment is launched next: its operators in order, its duration, and words to find it.
void bind(std::vector<Operator> operators, uint64_t duration, const std::string& site);

constexpr uint64_t kKernelNs = 100000;  // what a kernel lasts that belongs to no segment

// Queue one kernel of the segment; the first takes the segment's whole duration. It belongs to the first operator, from
// that of the last kernel on, whose tensors explain all its pointers. Reports a kernel that no operator explains.
CUresult operate(Stream* stream, const std::string& name, uint64_t salt, const std::vector<Access>& accesses);

// Report outputs of the segment that no kernel or copy was queued to write.
void finish();

}  // namespace emu
