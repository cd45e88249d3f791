#include "patterns.hpp"

namespace emu {

uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

uint64_t digest(const Range& range) {
    uint64_t hash = mix(range.size);
    auto* bytes = reinterpret_cast<const unsigned char*>(range.at);
    for (size_t i = 0; i < range.size; i += 8) {
        uint64_t word = 0;
        memcpy(&word, bytes + i, std::min<size_t>(8, range.size - i));
        hash = (hash ^ word) * 0x100000001b3ull + (hash >> 29);
    }
    return mix(hash);
}

void fill(const Range& range, uint64_t hash) {
    auto* bytes = reinterpret_cast<unsigned char*>(range.at);
    for (size_t i = 0; i < range.size; i += 8) {
        uint64_t word = mix(hash + i);
        memcpy(bytes + i, &word, std::min<size_t>(8, range.size - i));
    }
}

namespace {

struct Segment {
    std::vector<Operator> operators;
    std::set<uintptr_t> written;
    size_t current = 0;
    uint64_t duration = 0;
    std::string site;
} segment;

std::map<uintptr_t, size_t> extents;

// The part of one of the tensors that begins at `at`; false when none holds it.
bool within(const std::vector<Range>& tensors, uintptr_t at, Range* part) {
    for (const Range& tensor : tensors)
        if (at >= tensor.at && at < tensor.at + tensor.size) return *part = {at, tensor.at + tensor.size - at}, true;
    return false;
}

bool is_tensor(uintptr_t at) {
    Range part;
    for (const Operator& op : segment.operators)
        if (within(op.reads, at, &part) || within(op.writes, at, &part)) return true;
    return false;
}

bool in_scratch(uintptr_t at, Range* range) {
    Allocation* allocation = World::get().find(at, 1);
    if (!allocation || !allocation->device) return false;
    *range = {at, std::min(kGranule, allocation->at + allocation->size - at)};
    return true;
}

Range extent(const Range& scratch) {
    auto found = extents.find(scratch.at);
    return {scratch.at, found == extents.end() ? 0 : std::min(found->second, scratch.size)};
}

// Sort the accesses into the work's ranges as those of `op`; false when it does not explain them.
bool explain(const Operator& op, const std::vector<Access>& accesses, Work* work) {
    for (const Access& access : accesses) {
        Range range;
        uintptr_t at = reinterpret_cast<uintptr_t>(access.at);
        if (!is_tensor(at)) {
            if (in_scratch(at, &range)) (access.write ? work->writes : work->scratch).push_back(range);
        } else if (access.write) {
            if (!within(op.writes, at, &range)) return false;
            work->writes.push_back(range);
        } else {
            if (!within(op.reads, at, &range) && !within(op.writes, at, &range)) return false;
            work->reads.push_back(range);
        }
    }
    return true;
}

// The operator that a kernel belongs to, from the current one on; its ranges go to `work`.
bool assign(const std::vector<Access>& accesses, Work* work) {
    for (size_t i = segment.current; i < segment.operators.size(); i++) {
        Work tried = *work;
        if (!explain(segment.operators[i], accesses, &tried)) continue;
        segment.current = i;
        *work = tried;
        return true;
    }
    return false;
}

}  // namespace

Stream* known(Stream* stream) {
    return reinterpret_cast<uintptr_t>(stream) > 2 ? stream : World::get().standard_stream();
}

Held::Held(size_t size) {
    World::get().foreign = true;
    World::get().allocate(size, true, &at_);
    World::get().foreign = false;
}
Held::~Held() {
    if (at_) World::get().release(at_, true);
}

void queued(uintptr_t at) { segment.written.insert(at); }

void wrote(uintptr_t at, size_t size) { extents[at] = size; }

void bind(std::vector<Operator> operators, uint64_t duration, const std::string& site) {
    segment = Segment{std::move(operators), {}, 0, duration, site};
}

void finish() {
    for (const Operator& op : segment.operators)
        for (const Range& range : op.writes)
            if (!op.view && !segment.written.count(range.at))
                World::get().problem("nothing was launched that writes an output of " + op.type + " in " + segment.site);
    segment = Segment{};
}

CUresult operate(Stream* stream, const std::string& name, uint64_t salt, const std::vector<Access>& accesses) {
    if (World::get().refuses("kernel")) return CUDA_ERROR_LAUNCH_FAILED;
    uint64_t duration = segment.operators.empty() ? kKernelNs : segment.duration;
    Work work{Kind::kernel, {}, {}, {}, duration, segment.site + ": " + name};
    segment.duration = 0;
    if (!assign(accesses, &work) && !segment.operators.empty())
        World::get().problem("no operator of " + segment.site + " explains the pointers of " + name);
    for (const Range& range : work.writes) queued(range.at);
    uint64_t identity = mix(std::hash<std::string>()(name) ^ salt);
    work.effect = [identity, reads = work.reads, writes = work.writes, scratch = work.scratch] {
        uint64_t hash = identity;
        for (const Range& range : reads) hash = mix(hash ^ digest(range));
        for (const Range& range : scratch) hash = mix(hash ^ digest(extent(range)));
        for (size_t i = 0; i < writes.size(); i++) {
            fill(writes[i], mix(hash + i));
            wrote(writes[i].at, writes[i].size);
        }
    };
    return World::get().enqueue(stream, std::move(work));
}

}  // namespace emu
