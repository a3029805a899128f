/* Matrix products of an object file beside plain loops. All numbers are multiples of 1/8 and small, so that sums are exact in any order; what lies between the rows of a result and behind the memory must stay. */
#include "cases.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { F32, F64, BF16, GUARD = 64 };

static size_t width(int kind) { return kind == F64 ? 8 : kind == F32 ? 4 : 2; }

static double get(int kind, const void *at, long i) {
  if (kind == F64) return ((const double *)at)[i];
  if (kind == F32) return ((const float *)at)[i];
  uint32_t bits = (uint32_t)((const uint16_t *)at)[i] << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

/* Rounds to the nearest, ties to even; there are no NaN. */
static void put(int kind, void *at, long i, double x) {
  float y = (float)x;
  uint32_t bits;
  memcpy(&bits, &y, 4);
  if (kind == F64) ((double *)at)[i] = x;
  else if (kind == F32) ((float *)at)[i] = y;
  else ((uint16_t *)at)[i] = (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static long reach(const long *strides, long rows, long cols, long batch) {
  return (rows - 1) * strides[0] + (cols - 1) * strides[1] + (batch - 1) * strides[2] + 1;
}

static void *numbers(int kind, long count, int salt, int range) {
  void *at = malloc((size_t)count * width(kind));
  for (long i = 0; i < count; i++) put(kind, at, i, (double)((i * 37 + i / 11 * 5 + salt) % range - range / 2) / 8);
  return at;
}

static int check(const struct product *p) {
  long sizes[3] = {reach(p->a, p->m, p->k, p->batch), reach(p->b, p->k, p->n, p->batch), reach(p->c, p->m, p->n, p->batch)};
  void *a = numbers(p->kind, sizes[0], 1, 15), *b = p->symmetric ? a : numbers(p->kind, sizes[1], 4, 13), *c = numbers(p->kind, sizes[2], 9, 31);
  size_t bytes = (size_t)sizes[2] * width(p->kind);
  void *expected = malloc(bytes);
  for (long z = 0; z < p->batch && p->symmetric; z++)
    for (long i = 0; i < p->m; i++)
      for (long j = 0; j < i; j++) put(p->kind, c, z * p->c[2] + j * p->c[0] + i * p->c[1], get(p->kind, c, z * p->c[2] + i * p->c[0] + j * p->c[1]));
  memcpy(expected, c, bytes);
  for (long z = 0; z < p->batch; z++)
    for (long i = 0; i < p->m; i++)
      for (long j = 0; j < p->n; j++) {
        long to = z * p->c[2] + i * p->c[0] + j * p->c[1];
        double sum = p->accumulate ? get(p->kind, c, to) : 0;
        for (long q = 0; q < p->k; q++)
          sum += get(p->kind, a, z * p->a[2] + i * p->a[0] + q * p->a[1]) * get(p->kind, b, z * p->b[2] + q * p->b[0] + j * p->b[1]);
        put(p->kind, expected, to, sum);
      }
  unsigned char *work = aligned_alloc(64, (p->work + GUARD + 63) / 64 * 64);
  memset(work, 0xFF, p->work + GUARD);
  void *arrays[3] = {a, b, c};
  int wrong = p->run(arrays, work) != 0 || memcmp(c, expected, bytes) != 0;
  for (int i = 0; i < GUARD; i++) wrong |= work[p->work + (size_t)i] != 0xFF;
  free(work), free(expected), free(c), free(a);
  if (!p->symmetric) free(b);
  return wrong;
}

int main(void) {
  int wrong = 0;
  for (size_t k = 0; k < sizeof products / sizeof *products; k++)
    if (check(products + k)) printf("product %zu: %s\n", k, products[k].what), wrong = 1;
  return wrong;
}
