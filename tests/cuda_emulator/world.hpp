// A CUDA card in host memory: queued work runs later, in any order that its dependencies allow, chosen by a seed.
//
// Three things are kept of every operation: what it depends on (for running it), a vector clock (for finding two
// accesses to the same bytes that nothing orders), and start and end on a virtual clock (for measuring overlap).
#pragma once
#include <cuda.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace emu {

constexpr size_t kGranule = 64;      // bytes that share one history
constexpr size_t kAlignment = 256;  // of storages in a plan, padded up to it

struct Range {
    uintptr_t at;
    size_t size;
};

enum class Kind { kernel, copy_out, copy_in, copy_device, set, record, wait, host, join };
const char* const kNames[] = {"kernel", "out", "in", "device", "set", "record", "wait", "host", "join"};

// What an operation does: its effect, the bytes it touches, its duration, and words to find it again.
struct Work {
    Kind kind;
    std::function<void()> effect;
    std::vector<Range> reads, writes;
    uint64_t duration = 0;
    std::string site;
    std::vector<Range> scratch = {};  // read too, but may never have been written
};

using Clock = std::vector<uint32_t>;

inline void join(Clock& into, const Clock& other) {
    if (into.size() < other.size()) into.resize(other.size());
    for (size_t i = 0; i < other.size(); i++) into[i] = std::max(into[i], other[i]);
}

struct Operation {
    Work work;
    size_t lane = 0;      // component of the clocks that this operation ticks
    uint32_t epoch = 0;
    Clock clock;
    int waiting = 0;
    bool done = false;
    uint64_t start = 0, end = 0;
    std::vector<Operation*> next;
};

struct Node {
    Work work;
    size_t lane;
    std::vector<Node*> before;
};

struct Graph {
    std::deque<Node> nodes;
    std::vector<Node*> alive;
    std::vector<Node*> after(const Node* node) const {
        std::vector<Node*> found;
        for (Node* other : alive)
            if (std::count(other->before.begin(), other->before.end(), node)) found.push_back(other);
        return found;
    }
};

struct Stream {
    size_t lane = 0;
    Operation* last = nullptr;
    Clock clock;
    uint64_t time = 0;
    std::shared_ptr<Graph> capture;  // null unless recording
    bool origin = false, broken = false, foreign = false;
    std::vector<Node*> tips;         // nodes that what is recorded next depends on
};

struct Event {
    bool foreign = false;
    Operation* record = nullptr;
    std::shared_ptr<Graph> capture;
    std::vector<Node*> tips;
};

struct Executable {
    std::shared_ptr<Graph> graph;
};

struct Granule {
    Operation* writer = nullptr;
    std::vector<Operation*> readers;
};

struct Allocation {
    std::unique_ptr<unsigned char[]> bytes;
    uintptr_t at;
    size_t size;
    bool device, foreign;
    std::vector<Granule> granules;
};

class World {
  public:
    static World& get();  // one for all emulated libraries of the process

    void reset(uint64_t seed, size_t device_limit, size_t pinned_limit);

    // Memory.
    CUresult allocate(size_t size, bool device, uintptr_t* at);
    CUresult release(uintptr_t at, bool device);
    Allocation* find(uintptr_t at, size_t size);

    // Work. `enqueue` records instead while the stream records.
    CUresult enqueue(Stream* stream, Work work, const std::vector<Operation*>& also = {}, Operation** made = nullptr);
    CUresult wait(Stream* stream, Event* event);
    CUresult record(Stream* stream, Event* event);
    CUresult launch(Stream* stream, const Graph& graph);
    CUresult synchronize(Stream* stream);
    Stream* create_stream();
    Stream* standard_stream();  // of work for which the caller names none
    CUresult end_capture(Stream* stream, std::shared_ptr<Graph>* graph);

    // True when this call must fail: the n-th of its class, as told by `fail`.
    bool refuses(const std::string& name);
    void fail(const std::string& name, int nth) { failures_[name] = nth; }

    void problem(const std::string& text) { problems_.insert(text); }
    std::string name(uintptr_t at);

    std::set<Stream*> streams;
    std::set<Event*> events;
    std::set<Executable*> executables;
    std::map<void*, std::shared_ptr<Graph>> graphs;
    size_t device_live = 0, device_limit = 0, pinned_live = 0, pinned_limit = 0;
    size_t peak[2] = {0, 0};  // device bytes allocated at once: by planc, by libraries
    bool foreign = false;     // whether a library is calling, not planc: set while it does
    uint64_t latency_ns = 0, bandwidth = 1;  // of copies
    size_t workspace = 0;  // of cuDNN's favourite engine for a convolution; 0: there is only the other one
    int workspace_steps = 1;  // convolutions in turn have 1 / steps of it, 2 / steps, ..., all of it
    uint64_t host_time = 0;
    std::map<std::string, int> calls;
    std::vector<std::string> trace;  // of executed work, in order of execution
    size_t lanes = 1;
    int contexts = 0;
    bool present = false;     // whether the driver finds the card
    size_t live(bool of_library) const;  // device bytes
    size_t owned() const;                // what planc holds, of any kind

    const std::set<std::string>& problems() const { return problems_; }
    uint64_t copy_ns(size_t size) const { return latency_ns + size * 1000000000ull / bandwidth; }

  private:
    Operation* make(Work work, size_t lane, const Clock& base, const std::vector<Operation*>& after, uint64_t earliest);
    void check(Operation* operation);
    void race(const Operation* first, const Operation* second, uintptr_t at);
    void forget();
    void run_one();
    void run_some();
    void run_until(const Operation* operation);
    CUresult forbid(Stream* stream);

    std::mt19937_64 random_;
    int eagerness_ = 0;
    Clock host_;
    Stream* standard_ = nullptr;
    std::deque<Operation> operations_;
    std::vector<Operation*> ready_;
    Operation past_;  // whatever was before the last reset: everything comes after it
    std::map<uintptr_t, Allocation> memory_;
    std::map<std::string, int> failures_;
    std::set<std::string> problems_;
    std::set<std::pair<std::string, std::string>> reported_;
};

}  // namespace emu
