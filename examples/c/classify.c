/* Reads a binary PPM image, runs the network on it, and prints the best classes.
 *
 * The middle of the image that the model wants is scaled to the network's input by taking the nearest
 * pixel. A network that was compiled with --input-type uint8 takes the pixels as they are. For others
 * they are normalised as preprocessing.h says, which preprocessing.py makes from the bundle's model. With
 * --outputs top5 the network itself finds the best classes. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "network.h"
#include "preprocessing.h"

enum { CHANNELS = 3, SHOWN = 5 };

#ifdef NETWORK_INPUT_FRAME_SHAPE
static const int shape[] = NETWORK_INPUT_FRAME_SHAPE; /* 1, height, width, channels: nhwc */
enum { ROWS = 1, COLUMNS = 2, ELEMENTS = NETWORK_INPUT_FRAME_ELEMENTS };
#else
static const int shape[] = NETWORK_INPUT_INPUT_SHAPE; /* 1, channels, height, width; or nhwc */
enum {
  ROWS = 2 - IMAGE_CHANNELS_LAST,
  COLUMNS = 3 - IMAGE_CHANNELS_LAST,
  ELEMENTS = NETWORK_INPUT_INPUT_ELEMENTS
};
#endif

/* All memory of the program. The arena is aligned by its type. */
static network_input_t input[ELEMENTS];
static _Alignas(NETWORK_ARENA_ALIGNMENT) unsigned char arena[NETWORK_ARENA_BYTES];

#ifdef NETWORK_OUTPUT_CLASSES_ELEMENTS /* compiled with --outputs top5: the network sorts */
enum { BEST = NETWORK_OUTPUT_CLASSES_ELEMENTS };
static float scores[BEST];
static int64_t classes[BEST];

/* Runs the network, and puts the best classes and their scores into `classes` and `scores`. */
static int classify(void) {
  network_output_t output = {scores, classes};
  return network_run(input, &output, arena);
}
#else
enum { BEST = NETWORK_CLASSES < SHOWN ? NETWORK_CLASSES : SHOWN };
static network_output_t output[NETWORK_CLASSES];
static float scores[BEST];
static int64_t classes[BEST];

/* Runs the network, and puts the best classes and their scores into `classes` and `scores`. */
static int classify(void) {
  const int code = network_run(input, output, arena);
  for (int place = 0; code == NETWORK_OK && place < BEST; ++place) {
    int best = 0;
    for (int at = 1; at < NETWORK_CLASSES; ++at) {
      if (output[at] > output[best]) best = at;
    }
    classes[place] = best;
    scores[place] = output[best];
    output[best] = -1e30f;
  }
  return code;
}
#endif

/* Puts a pixel where the network takes it. */
static void put(const uint8_t *pixel, int row, int column) {
#ifdef NETWORK_INPUT_FRAME_SHAPE
  for (int c = 0; c < CHANNELS; ++c) {
    input[(row * shape[COLUMNS] + column) * CHANNELS + c] = pixel[c];
  }
#else
  static const float mean[CHANNELS] = IMAGE_MEAN, deviation[CHANNELS] = IMAGE_STD;
  const int place = row * shape[COLUMNS] + column, plane = shape[ROWS] * shape[COLUMNS];
  for (int c = 0; c < CHANNELS; ++c) {
    const int color = IMAGE_BGR ? CHANNELS - 1 - c : c; /* pixels of a PPM are red, green, blue */
    input[IMAGE_CHANNELS_LAST ? place * CHANNELS + c : c * plane + place] =
        (pixel[color] * (float)IMAGE_SCALE - mean[color]) / deviation[color];
  }
#endif
}

/* Reads the next number of a PPM header, behind spaces and comments; -1 for none. */
static int number(FILE *file) {
  int next = fgetc(file);
  while (next == ' ' || next == '\n' || next == '\r' || next == '\t' || next == '#') {
    if (next == '#') {
      while (next != '\n' && next != EOF) next = fgetc(file);
    }
    next = fgetc(file);
  }
  if (next < '0' || next > '9') return -1;
  int value = 0;
  for (; next >= '0' && next <= '9'; next = fgetc(file)) {
    value = value * 10 + next - '0';
    if (value > 65535) return -1;
  }
  return value;
}

/* Reads an image into `input`; returns 0, or 1 if the file is no PPM with 8 bits a channel. */
static int read_image(FILE *file) {
  if (fgetc(file) != 'P' || fgetc(file) != '6') return 1;
  const int width = number(file), height = number(file), largest = number(file);
  if (width < 1 || height < 1 || largest != 255) return 1;
  const size_t bytes = (size_t)width * height * CHANNELS;
  uint8_t *pixels = malloc(bytes);
  if (pixels == NULL || fread(pixels, 1, bytes, file) != bytes) {
    free(pixels);
    return 1;
  }
  const int rows = shape[ROWS], columns = shape[COLUMNS];
  double wide = width, high = height; /* of the part that the network sees */
  if (IMAGE_SHOWN > 0) {
    if (wide * rows > high * columns) wide = high * columns / rows;
    else high = wide * rows / columns;
    wide *= IMAGE_SHOWN;
    high *= IMAGE_SHOWN;
  }
  const double left = (width - wide) / 2, top = (height - high) / 2;
  for (int y = 0; y < rows; ++y) {
    for (int x = 0; x < columns; ++x) {
      const size_t line = (size_t)(top + (y + 0.5) * high / rows);
      const size_t from = line * width + (size_t)(left + (x + 0.5) * wide / columns);
      put(pixels + from * CHANNELS, y, x);
    }
  }
  free(pixels);
  return 0;
}

int main(int count, char **arguments) {
  if (count != 2) {
    fprintf(stderr, "usage: %s IMAGE.ppm\n", arguments[0]);
    return 2;
  }
  FILE *file = fopen(arguments[1], "rb");
  if (file == NULL) {
    perror(arguments[1]);
    return 1;
  }
  const int wrong = read_image(file);
  fclose(file);
  if (wrong) {
    fprintf(stderr, "%s: no binary PPM image with 8 bits a channel\n", arguments[1]);
    return 1;
  }
  const int code = classify();
#ifdef NETWORK_FEATURES /* compiled for a processor with more than each of its architecture has */
  if (code == NETWORK_NO_FEATURE) {
    fprintf(stderr, "this processor has no %s\n", network_lacking());
    return 1;
  }
#endif
  if (code != NETWORK_OK) {
    fprintf(stderr, "network_run returned %d\n", code);
    return 1;
  }
  for (int place = 0; place < BEST; ++place) {
    const int found = (int)classes[place];
#ifdef NETWORK_LABELS /* compiled with --labels */
    printf("class %d, %s: %g\n", found, network_labels[found], scores[place]);
#else
    printf("class %d: %g\n", found, scores[place]);
#endif
  }
  return 0;
}
