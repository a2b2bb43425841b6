"""A header for C++ over the one for C: it owns the arena, and knows the sizes of everything."""

from string import Template

from mbv3c.c_library.source import Interface

_HEADER = Template("""\
// $prefix.h for C++17: no exceptions, nothing to link. A Network is for one thread.
#ifndef ${macro}_HPP
#define ${macro}_HPP

#include <cstddef>
#include <new>
#include <utility>

#include "$prefix.h"

namespace $prefix {

// Elements that lie one after another, as many as the network takes or gives: those of an array,
// of a container with data() and size(), or behind a pointer that is known to have them.
template <typename T, std::size_t N>
class Span {
 public:
  static constexpr std::size_t size = N;
  explicit Span(T *data) noexcept : data_(data) {}
  Span(T (&array)[N]) noexcept : data_(array) {}
  template <typename C, typename = decltype(std::declval<C &>().data())>
  Span(C &container) noexcept : data_(container.size() == N ? container.data() : nullptr) {}
  T *data() const noexcept { return data_; }

 private:
  T *data_;
};

$spans

// The network with an arena of its own.
class Network {
 public:
  static constexpr std::size_t arena_bytes = ${macro}_ARENA_BYTES;

  // Allocates the arena; where there is not enough memory, the network is false.
  Network() noexcept : arena_(::operator new(arena_bytes, alignment, std::nothrow)) {}
  ~Network() { ::operator delete(arena_, alignment); }
  Network(Network &&other) noexcept : arena_(std::exchange(other.arena_, nullptr)) {}
  Network &operator=(Network &&other) noexcept {
    std::swap(arena_, other.arena_);
    return *this;
  }
  Network(const Network &) = delete;
  Network &operator=(const Network &) = delete;
  explicit operator bool() const noexcept { return arena_ != nullptr; }

  // Runs the network once, and allocates nothing; returns a code of the header for C. For a
  // container of another size it is ${macro}_NULL_POINTER.
  int run($parameters,
          const ${prefix}_parallel_t *parallel = nullptr) noexcept {
$run
  }

 private:
  static constexpr std::align_val_t alignment{${macro}_ARENA_ALIGNMENT};
  void *arena_;
};

}  // namespace $prefix

#endif
""")


def cpp_header(own: Interface) -> str:
    """Return the text of the header, for C++17."""
    names = _parameter_names(own)
    parameters, spans, arguments, lines = [], [], [], []
    for kind, ports, const in (("Input", own.inputs, "const "), ("Output", own.outputs, "")):
        for port in ports:
            span = kind if len(ports) == 1 else f"{kind}_{port.field}"
            spans.append(f"using {span} = Span<{const}{port.c_type}, {port.elements}>;")
            parameters.append(f"{span} {names[kind, port.field]}")
        given = [f"{names[kind, port.field]}.data()" for port in ports]
        if len(ports) > 1:
            variable = f"all_{kind.lower()}s"
            lines.append(f"    {own.prefix}_{kind.lower()}_t {variable} = {{{', '.join(given)}}};")
            given = [f"&{variable}"]
        arguments += given
    call = f"{own.prefix}_run_parallel({', '.join(arguments)}, arena_, arena_bytes, parallel)"
    return _HEADER.substitute(
        prefix=own.prefix,
        macro=own.prefix.upper(),
        spans="\n".join(spans),
        parameters=", ".join(parameters),
        run="\n".join([*lines, f"    return {call};"]),
    )


def _parameter_names(own: Interface) -> dict[tuple[str, str], str]:
    """Return the names of `run`'s parameters, which no member, macro or other side has."""
    return {
        **{("Input", port.field): f"{port.field}_in" for port in own.inputs},
        **{("Output", port.field): f"{port.field}_out" for port in own.outputs},
    }
