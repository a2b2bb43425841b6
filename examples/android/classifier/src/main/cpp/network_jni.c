/* What Network.kt calls: a C library of mbv3c behind Java's native interface. */

#include <jni.h>
#include <stdlib.h>

#include "network.h"

#ifndef NETWORK_INPUT_FRAME_SHAPE
#error "the bundle takes no frames: compile it with --input-type uint8"
#endif
#ifndef NETWORK_CLASSES
#error "the bundle gives no scores by class: its model must have one output, N x classes"
#endif

/* One network: its arena and the scores that it gave last. */
typedef struct {
  void *memory, *arena; /* the arena is the memory from its first aligned byte on */
  network_output_t scores[NETWORK_CLASSES];
} Session;

/* The codes below are beside those of network.h. */
enum { FRAME_NOT_DIRECT = -100, FRAME_OF_ANOTHER_SIZE = -101 };

/* JNI hands floats over as they are; any other output is refused where this is compiled. */
static const float *as_floats(const network_output_t *scores) { return scores; }

static Session *session_of(jlong handle) { return (Session *)(intptr_t)handle; }

/* Returns a handle, or 0 if there is not enough memory. */
JNIEXPORT jlong JNICALL Java_mbv3c_example_Network_open(JNIEnv *env, jclass type) {
  (void)env, (void)type;
  Session *session = malloc(sizeof *session);
  if (session == NULL) return 0;
  session->memory = malloc(NETWORK_ARENA_BYTES + NETWORK_ARENA_ALIGNMENT - 1);
  if (session->memory == NULL) {
    free(session);
    return 0;
  }
  const uintptr_t past = (uintptr_t)session->memory + NETWORK_ARENA_ALIGNMENT - 1;
  session->arena = (void *)(past - past % NETWORK_ARENA_ALIGNMENT);
  return (jlong)(intptr_t)session;
}

JNIEXPORT void JNICALL Java_mbv3c_example_Network_close(JNIEnv *env, jclass type, jlong handle) {
  (void)env, (void)type;
  Session *session = session_of(handle);
  free(session->memory);
  free(session);
}

/* Returns the frame's shape: batch, height, width, channels. */
JNIEXPORT jintArray JNICALL Java_mbv3c_example_Network_frameShape(JNIEnv *env, jclass type) {
  (void)type;
  static const jint shape[] = NETWORK_INPUT_FRAME_SHAPE;
  const jsize rank = (jsize)(sizeof shape / sizeof *shape);
  jintArray array = (*env)->NewIntArray(env, rank);
  if (array != NULL) (*env)->SetIntArrayRegion(env, array, 0, rank, shape);
  return array;
}

JNIEXPORT jint JNICALL Java_mbv3c_example_Network_classCount(JNIEnv *env, jclass type) {
  (void)env, (void)type;
  return NETWORK_CLASSES;
}

/* Returns the name of a class as bytes in UTF-8, or NULL if the bundle has no names: NewStringUTF
 * would take another encoding, that of Java's class files. */
JNIEXPORT jbyteArray JNICALL Java_mbv3c_example_Network_label(JNIEnv *env, jclass type,
                                                              jint number) {
  (void)type;
#ifdef NETWORK_LABELS
  if (number < 0 || number >= NETWORK_LABELS) return NULL;
  const char *name = network_labels[number];
  jsize bytes = 0;
  while (name[bytes] != '\0') ++bytes;
  jbyteArray array = (*env)->NewByteArray(env, bytes);
  if (array != NULL) (*env)->SetByteArrayRegion(env, array, 0, bytes, (const jbyte *)name);
  return array;
#else
  (void)env, (void)number;
  return NULL;
#endif
}

/* Runs the network on a frame in a direct buffer, which is not copied; returns a code. */
JNIEXPORT jint JNICALL Java_mbv3c_example_Network_run(JNIEnv *env, jclass type, jlong handle,
                                                      jobject frame, jfloatArray scores) {
  (void)type;
  Session *session = session_of(handle);
  const network_input_t *pixels = (*env)->GetDirectBufferAddress(env, frame);
  if (pixels == NULL) return FRAME_NOT_DIRECT;
  if ((*env)->GetDirectBufferCapacity(env, frame) != NETWORK_INPUT_FRAME_ELEMENTS) {
    return FRAME_OF_ANOTHER_SIZE;
  }
  const int code = network_run(pixels, session->scores, session->arena);
  if (code == NETWORK_OK) {
    (*env)->SetFloatArrayRegion(env, scores, 0, NETWORK_CLASSES, as_floats(session->scores));
  }
  return code;
}
