// The card's behaviour; see world.hpp.
#include "world.hpp"

namespace emu {

World& World::get() {
    static World world;
    return world;
}

Stream* World::create_stream() {
    auto* made = new Stream;
    made->foreign = foreign;
    made->lane = lanes;
    lanes += 2;  // one for what is launched, one for what is replayed
    streams.insert(made);
    return made;
}

Stream* World::standard_stream() {
    if (standard_) return standard_;
    standard_ = create_stream();
    standard_->foreign = true;
    return standard_;
}

void World::reset(uint64_t seed, size_t device, size_t pinned) {
    while (!ready_.empty()) run_one();
    random_.seed(seed);
    eagerness_ = static_cast<int>(seed % 4);  // how much runs beside each call of the host: nothing at 0
    device_limit = device;
    pinned_limit = pinned;
    for (bool of : {false, true}) peak[of] = live(of);
    host_time = 0;
    workspace = 0;
    workspace_steps = 1;
    calls.clear();
    trace.clear();
    failures_.clear();
    problems_.clear();
    reported_.clear();
    forget();
}

// What was done is past: bytes stay written, nothing is left to race with.
void World::forget() {
    for (auto& [at, allocation] : memory_)
        for (Granule& granule : allocation.granules) {
            granule.writer = granule.writer ? &past_ : nullptr;
            granule.readers.clear();
        }
    bool renumber = graphs.empty() && executables.empty();  // their nodes know lanes
    if (renumber) lanes = 1;
    for (Stream* stream : streams) {
        stream->last = nullptr;
        stream->clock.clear();
        stream->time = 0;
        if (!renumber) continue;
        stream->lane = lanes;
        lanes += 2;
    }
    for (Event* event : events) event->record = nullptr;
    host_.clear();
    operations_.clear();
}

size_t World::live(bool of_library) const {
    size_t bytes = 0;
    for (auto& [at, allocation] : memory_) bytes += allocation.device && allocation.foreign == of_library ? allocation.size : 0;
    return bytes;
}

size_t World::owned() const {
    size_t count = executables.size() + graphs.size() + static_cast<size_t>(contexts);
    for (auto& [at, allocation] : memory_) count += allocation.foreign ? 0 : allocation.size;
    for (Stream* stream : streams) count += !stream->foreign;
    for (Event* event : events) count += !event->foreign;
    return count;
}

bool World::refuses(const std::string& name) {
    int count = ++calls[name];
    auto found = failures_.find(name);
    return found != failures_.end() && found->second == count;
}

CUresult World::allocate(size_t size, bool device, uintptr_t* at) {
    size_t& live = device ? device_live : pinned_live;
    if (size == 0) return CUDA_ERROR_INVALID_VALUE;
    if (live + size > (device ? device_limit : pinned_limit)) return CUDA_ERROR_OUT_OF_MEMORY;
    auto bytes = std::make_unique<unsigned char[]>(size + 256);
    *at = (reinterpret_cast<uintptr_t>(bytes.get()) + 255) / 256 * 256;
    for (size_t i = 0; i < size; i += 8) {
        uint64_t noise = random_();
        memcpy(reinterpret_cast<unsigned char*>(*at) + i, &noise, std::min<size_t>(8, size - i));
    }
    memory_[*at] = Allocation{std::move(bytes), *at, size, device, foreign, std::vector<Granule>((size + kGranule - 1) / kGranule)};
    live += size;
    if (device) peak[foreign] = std::max(peak[foreign], this->live(foreign));
    return CUDA_SUCCESS;
}

CUresult World::release(uintptr_t at, bool device) {
    auto found = memory_.find(at);
    if (found == memory_.end() || found->second.device != device) return CUDA_ERROR_INVALID_VALUE;
    for (Stream* stream : streams) run_until(stream->last);
    (device ? device_live : pinned_live) -= found->second.size;
    memory_.erase(found);
    return CUDA_SUCCESS;
}

Allocation* World::find(uintptr_t at, size_t size) {
    auto found = memory_.upper_bound(at);
    if (found == memory_.begin()) return nullptr;
    Allocation& allocation = std::prev(found)->second;
    return at + size <= allocation.at + allocation.size ? &allocation : nullptr;
}

std::string World::name(uintptr_t at) {
    Allocation* allocation = find(at, 1);
    if (!allocation) return "unknown memory";
    return std::string(allocation->device ? "device" : "pinned") + "+" + std::to_string(at - allocation->at);
}

Operation* World::make(Work work, size_t lane, const Clock& base, const std::vector<Operation*>& after, uint64_t earliest) {
    operations_.emplace_back();
    Operation* operation = &operations_.back();
    operation->work = std::move(work);
    operation->lane = lane;
    operation->clock = base;
    operation->start = earliest;
    for (Operation* before : after) {
        join(operation->clock, before->clock);
        operation->start = std::max(operation->start, before->end);
        if (before->done) continue;
        before->next.push_back(operation);
        operation->waiting++;
    }
    join(operation->clock, host_);
    if (operation->clock.size() <= lane) operation->clock.resize(lane + 1);
    operation->epoch = ++operation->clock[lane];
    operation->end = operation->start + operation->work.duration;
    check(operation);
    if (operation->waiting == 0) ready_.push_back(operation);
    return operation;
}

static bool before(const Operation* first, const Operation* second) {
    return first == second || (second->clock.size() > first->lane && second->clock[first->lane] >= first->epoch);
}

void World::race(const Operation* first, const Operation* second, uintptr_t at) {
    if (reported_.insert({first->work.site, second->work.site}).second)
        problem("race on " + name(at) + ": " + first->work.site + " and " + second->work.site);
}

// Every read must come after the bytes' last write, every write after that and after all reads since.
void World::check(Operation* operation) {
    auto each = [&](const Range& range, auto&& visit) {
        Allocation* allocation = find(range.at, range.size);
        if (!allocation) {
            operation->work.effect = [] {};
            return problem("outside any allocation: " + operation->work.site);
        }
        size_t first = (range.at - allocation->at) / kGranule;
        size_t end = (range.at + range.size - allocation->at + kGranule - 1) / kGranule;
        for (size_t i = first; i < end; i++) visit(allocation->granules[i], allocation->at + i * kGranule, *allocation);
    };
    // A copy moves a storage with its padding, which nothing wrote: its last bytes, never its first.
    auto padding = [&](const Range& range, uintptr_t at) {
        return at > range.at && at + kAlignment > range.at + range.size;
    };
    auto read = [&](const Range& range, bool written) {
        each(range, [&](Granule& granule, uintptr_t at, const Allocation& allocation) {
            if (granule.writer && !before(granule.writer, operation)) race(granule.writer, operation, at);
            if (!granule.writer && written && allocation.device && !padding(range, at))
                problem("read of bytes never written at " + name(at) + ": " + operation->work.site);
            auto known = [&](Operation* reader) { return before(reader, operation); };
            auto& readers = granule.readers;
            readers.erase(std::remove_if(readers.begin(), readers.end(), known), readers.end());
            readers.push_back(operation);
        });
    };
    for (const Range& range : operation->work.reads) read(range, true);
    for (const Range& range : operation->work.scratch) read(range, false);
    for (const Range& range : operation->work.writes)
        each(range, [&](Granule& granule, uintptr_t at, const Allocation&) {
            if (granule.writer && !before(granule.writer, operation)) race(granule.writer, operation, at);
            for (Operation* reader : granule.readers)
                if (!before(reader, operation)) race(reader, operation, at);
            granule.writer = operation;
            granule.readers.clear();
        });
}

CUresult World::enqueue(Stream* stream, Work work, const std::vector<Operation*>& also, Operation** made) {
    if (stream->broken) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (stream->capture) {
        Graph& graph = *stream->capture;
        graph.nodes.push_back(Node{std::move(work), stream->lane + 1, stream->tips});
        graph.alive.push_back(&graph.nodes.back());
        stream->tips = {&graph.nodes.back()};
        return CUDA_SUCCESS;
    }
    std::vector<Operation*> after = also;
    if (stream->last) after.push_back(stream->last);
    Operation* operation = make(std::move(work), stream->lane, stream->clock, after, std::max(stream->time, host_time));
    stream->last = operation;
    stream->clock = operation->clock;
    stream->time = operation->end;
    if (made) *made = operation;
    run_some();
    return CUDA_SUCCESS;
}

CUresult World::record(Stream* stream, Event* event) {
    if (stream->capture) {
        if (stream->broken) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        event->capture = stream->capture;
        event->tips = stream->tips;
        return CUDA_SUCCESS;
    }
    event->capture.reset();
    return enqueue(stream, Work{Kind::record, [] {}, {}, {}, 0, "record"}, {}, &event->record);
}

CUresult World::wait(Stream* stream, Event* event) {
    if (!event->capture) {
        if (stream->capture) {
            stream->broken = true;
            return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
        }
        std::vector<Operation*> after;
        if (event->record) after.push_back(event->record);
        return enqueue(stream, Work{Kind::wait, [] {}, {}, {}, 0, "wait"}, after);
    }
    if (stream->capture && stream->capture != event->capture) return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    if (!stream->capture) {
        stream->capture = event->capture;
        stream->tips.clear();
    }
    for (Node* tip : event->tips)
        if (!std::count(stream->tips.begin(), stream->tips.end(), tip)) stream->tips.push_back(tip);
    return CUDA_SUCCESS;
}

CUresult World::launch(Stream* stream, const Graph& graph) {
    std::map<const Node*, Operation*> made;
    std::vector<Operation*> all;
    Clock base = stream->clock;
    uint64_t earliest = std::max(stream->time, host_time);
    for (Node* node : graph.alive) {
        std::vector<Operation*> after;
        for (Node* other : node->before) after.push_back(made.at(other));
        if (after.empty() && stream->last) after.push_back(stream->last);
        all.push_back(made[node] = make(node->work, node->lane, base, after, earliest));
    }
    return enqueue(stream, Work{Kind::join, [] {}, {}, {}, 0, "graph"}, all);
}

CUresult World::forbid(Stream* stream) {
    stream->broken = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult World::synchronize(Stream* stream) {
    if (stream->capture) return forbid(stream);
    run_until(stream->last);
    join(host_, stream->clock);
    host_time = std::max(host_time, stream->time);
    return CUDA_SUCCESS;
}

CUresult World::end_capture(Stream* stream, std::shared_ptr<Graph>* graph) {
    if (!stream->capture || !stream->origin) return CUDA_ERROR_ILLEGAL_STATE;
    std::set<const Node*> joined;
    std::vector<const Node*> open(stream->tips.begin(), stream->tips.end());
    while (!open.empty()) {
        const Node* node = open.back();
        open.pop_back();
        if (joined.insert(node).second) open.insert(open.end(), node->before.begin(), node->before.end());
    }
    std::shared_ptr<Graph> captured = stream->capture;
    bool broken = false, unjoined = false;
    for (Stream* other : streams) {
        if (other->capture != captured) continue;
        broken |= other->broken;
        for (Node* tip : other->tips) unjoined |= !joined.count(tip);
        other->capture.reset();
        other->tips.clear();
        other->broken = other->origin = false;
    }
    *graph = captured;
    return broken ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : unjoined ? CUDA_ERROR_STREAM_CAPTURE_UNJOINED : CUDA_SUCCESS;
}

void World::run_one() {
    size_t pick = random_() % ready_.size();
    Operation* operation = ready_[pick];
    ready_[pick] = ready_.back();
    ready_.pop_back();
    operation->work.effect();
    operation->work.effect = nullptr;
    operation->done = true;
    if (operation->work.kind < Kind::record) trace.push_back(operation->work.site);
    for (Operation* next : operation->next)
        if (--next->waiting == 0) ready_.push_back(next);
}

void World::run_some() {
    for (int i = 0; i < eagerness_ && !ready_.empty() && random_() % 2; i++) run_one();
}

void World::run_until(const Operation* operation) {
    while (operation && !operation->done && !ready_.empty()) run_one();
}

}  // namespace emu
