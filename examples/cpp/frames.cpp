// Four threads classify frames from a ring buffer, each with a network of its own. After the start
// nothing is allocated, which the program checks itself: it counts every call of operator new.

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <thread>

#include "network.hpp"

namespace {

constexpr int kThreads = 4, kSlots = 8, kFrames = 64;
constexpr std::size_t kInput = network::Input::size, kOutput = network::Output::size;

std::atomic<long> allocations{0};

struct Frame {
  int number = -1;
  std::array<network_input_t, kInput> pixels{};
};

// A ring of frames: a camera fills slots, threads empty them.
class Ring {
 public:
  template <typename Fill>
  void put(Fill fill) {
    std::unique_lock<std::mutex> lock(mutex_);
    room_.wait(lock, [this] { return filled_ < kSlots; });
    fill(slots_[(first_ + filled_) % kSlots]);
    ++filled_;
    ready_.notify_one();
  }

  // Copies the next frame; false when no frame will come any more.
  bool take(Frame &frame) {
    std::unique_lock<std::mutex> lock(mutex_);
    ready_.wait(lock, [this] { return filled_ > 0 || closed_; });
    if (filled_ == 0) return false;
    frame = slots_[first_];
    first_ = (first_ + 1) % kSlots;
    --filled_;
    room_.notify_one();
    return true;
  }

  void close() {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    ready_.notify_all();
  }

 private:
  std::array<Frame, kSlots> slots_;
  int first_ = 0, filled_ = 0;
  bool closed_ = false;
  std::mutex mutex_;
  std::condition_variable room_, ready_;
};

struct Worker {
  network::Network network;
  Frame frame;
  std::array<network_output_t, kOutput> output{};
};

// Stands for a camera: a pattern that differs from frame to frame.
void fill(Frame &frame, int number) {
  frame.number = number;
  for (std::size_t at = 0; at < kInput; ++at) {
    frame.pixels[at] = static_cast<network_input_t>((at * 31 + number * 7) % 256) / 128.0f - 1.0f;
  }
}

int best(const std::array<network_output_t, kOutput> &output) {
  int found = 0;
  for (std::size_t at = 1; at < kOutput; ++at) {
    if (output[at] > output[found]) found = static_cast<int>(at);
  }
  return found;
}

}  // namespace

void *operator new(std::size_t bytes) {
  ++allocations;
  if (void *at = std::malloc(bytes)) return at;
  std::abort();
}
void operator delete(void *at) noexcept { std::free(at); }
void operator delete(void *at, std::size_t) noexcept { std::free(at); }

int main() {
#ifdef NETWORK_FEATURES  // compiled for a processor with more than each of its architecture has
  if (const char *lacking = network_lacking()) {
    std::fprintf(stderr, "this processor has no %s\n", lacking);
    return 1;
  }
#endif
  auto ring = std::make_unique<Ring>();
  std::array<std::unique_ptr<Worker>, kThreads> workers;
  for (auto &worker : workers) {
    worker = std::make_unique<Worker>();
    if (!worker->network) {
      std::fputs("not enough memory for an arena\n", stderr);
      return 1;
    }
  }
  std::array<std::atomic<int>, kFrames> classes;
  for (auto &each : classes) each = -1;
  std::atomic<int> failed{0}, started{0};
  std::atomic<bool> go{false};
  std::array<std::thread, kThreads> threads;
  for (int at = 0; at < kThreads; ++at) {
    threads[at] = std::thread([&, worker = workers[at].get()] {
      ++started;
      while (!go) std::this_thread::yield();
      while (ring->take(worker->frame)) {
        if (worker->network.run(worker->frame.pixels, worker->output) != NETWORK_OK) ++failed;
        classes[worker->frame.number] = best(worker->output);
      }
    });
  }
  while (started < kThreads) std::this_thread::yield();
  const long before = allocations;
  go = true;
  for (int number = 0; number < kFrames; ++number) {
    ring->put([number](Frame &frame) { fill(frame, number); });
  }
  ring->close();
  for (auto &thread : threads) thread.join();
  const long later = allocations - before;

  // One thread alone must find what four have found.
  int differing = 0;
  for (int number = 0; number < kFrames; ++number) {
    Worker &worker = *workers[0];
    fill(worker.frame, number);
    if (worker.network.run(worker.frame.pixels, worker.output) != NETWORK_OK) ++failed;
    differing += classes[number] != best(worker.output);
  }
  std::printf("%d frames, %d threads: %d failed, %d differ from one thread alone, %ld allocations\n",
              kFrames, kThreads, failed.load(), differing, later);
  return failed != 0 || differing != 0 || later != 0;
}
