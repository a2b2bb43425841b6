/* Runs a bundle's model.so in an application, by TVM's runtime and with nothing else of mbv3c.
 *
 * Build mbv3c_model.c with the application, against the headers of tvm_ffi, and link libtvm_runtime
 * and libtvm_ffi of the versions that the bundle's manifest.json names. It is C11 and needs POSIX
 * threads.
 *
 * Functions return MBV3C_OK or a code below 0; mbv3c_message() then says in words what is wrong. */
#ifndef MBV3C_MODEL_H
#define MBV3C_MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
  MBV3C_OK = 0,            /* done */
  MBV3C_NULL_POINTER = -1, /* an argument is NULL */
  MBV3C_BAD_FILE = -4,     /* a file of the bundle is missing, or is not what it should be */
  MBV3C_RUNTIME = -5,      /* TVM's runtime refuses; the message is its own */
  MBV3C_NO_MEMORY = -6,    /* memory is exhausted */
  MBV3C_NOT_OPEN = -7      /* no model is open */
};

/* An input or an output. */
typedef struct {
  const char *name;     /* the tensor's name in the model; characters beyond ASCII are escaped */
  const char *dtype;    /* numpy's name of the element type, such as float32 */
  int rank;             /* the number of extents */
  const int64_t *shape; /* the extents, outermost first */
  size_t bytes;         /* the bytes of its elements, in C order */
} mbv3c_end_t;

typedef struct mbv3c_model mbv3c_model_t;

/* Opens a bundle, a folder with model.so and app/ends.txt. */
int mbv3c_open(const char *bundle, mbv3c_model_t **model);

/* Opens a model from memory: the bytes of model.so, and the text of app/ends.txt. Both may go as
 * soon as the call returns. Linux and Android from API 30 on, which can load a library from memory
 * that has no file. */
int mbv3c_open_memory(const void *library, size_t bytes, const char *ends, mbv3c_model_t **model);

/* Closes a model; nothing may be running on it. NULL is allowed. */
void mbv3c_close(mbv3c_model_t *model);

/* What the model takes and gives; NULL beyond the last one. They live as long as the model. */
size_t mbv3c_input_count(const mbv3c_model_t *model);
size_t mbv3c_output_count(const mbv3c_model_t *model);
const mbv3c_end_t *mbv3c_input(const mbv3c_model_t *model, size_t index);
const mbv3c_end_t *mbv3c_output(const mbv3c_model_t *model, size_t index);

/* Runs the model once. `inputs` and `outputs` point to the arrays, in the model's order, of the bytes
 * that the ends say. An input that begins at no multiple of 64 is copied first, as kernels may load
 * whole vectors. Any number of threads may call with one model: each call has a virtual machine of
 * its own, and weights are there once. */
int mbv3c_run(mbv3c_model_t *model, const void *const *inputs, void *const *outputs);

/* Says how many threads share the loops of an inference, and, unless `cores` is NULL, on which cores
 * they run: thread k of an inference on core cores[k]. It is for the whole process. A model must have
 * been compiled for more than one core (--cores). */
int mbv3c_set_threads(int threads, const int *cores);

/* What was wrong in this thread's last call that failed; never NULL. */
const char *mbv3c_message(void);

#ifdef __cplusplus
}
#endif
#endif
