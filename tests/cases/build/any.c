/* Five steps of any rule on numbers without pattern; prints some of the weights. SHAPES: for leaves of given shapes; SEEDED: it draws. */
#include "rule.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 40 * 30, STEPS = 5 };

static void *fresh(void) { return aligned_alloc(64, 8 * N); }

#ifdef SEEDED
#define SEED , 7
#else
#define SEED
#endif

int main(void) {
  rule_hyper h;
  rule_defaults(&h);
#ifdef SHAPES
  enum { LEAVES = RULE_LEAVES };
  union { rule_f32_arrays arrays; void *entries[sizeof(rule_f32_arrays) / sizeof(void *)]; } all;
  for (size_t k = 0; k < sizeof all / sizeof(void *); k++) all.entries[k] = fresh();
  void *work = aligned_alloc(64, RULE_F32_WORK / 64 * 64 + 64);
  float *w[LEAVES], *g[LEAVES];
  for (int k = 0; k < LEAVES; k++) w[k] = all.entries[k], g[k] = all.entries[LEAVES + k];
#else
  enum { LEAVES = 1 };
  union { rule_f32_step_leaf leaf; void *entries[sizeof(rule_f32_step_leaf) / sizeof(void *)]; } all;
  union { rule_f32_init_leaf leaf; void *entries[sizeof(rule_f32_init_leaf) / sizeof(void *)]; } first;
  for (size_t k = 1; k < sizeof all / sizeof(void *); k++) all.entries[k] = fresh();
  first.entries[1] = all.entries[1];
  for (size_t k = 2; k < sizeof first / sizeof(void *); k++) first.entries[k] = all.entries[k + 1];
  all.leaf.n = first.leaf.n = N - 5;
  float *w[LEAVES] = {all.entries[1]}, *g[LEAVES] = {all.entries[2]};
#endif
  for (int k = 0; k < LEAVES; k++)
    for (int i = 0; i < N; i++) w[k][i] = (float)((i * 7919 + k) % 1000) / 500 - 1;
#ifdef SHAPES
  int code = rule_f32_init(&all.arrays, work SEED);
#else
  int code = rule_f32_init_many(1, &first.leaf);
#endif
  if (code) return printf("%s\n", rule_error(code)), 1;
  for (int t = 1; t <= STEPS; t++) {
    for (int k = 0; k < LEAVES; k++)
      for (int i = 0; i < N; i++) g[k][i] = (float)((i * 104729 + 31 * t + k) % 997) / 400 - 1;
#ifdef SHAPES
    code = rule_f32_step(&all.arrays, work, t, &h SEED);
#else
    code = rule_f32_step_many(1, &all.leaf, t, &h);
#endif
    if (code) return printf("%s\n", rule_error(code)), 1;
  }
  for (int k = 0; k < LEAVES; k++)
    for (int i = 0; i < (k ? 7 : N - 5); i += 3) printf("%.9g\n", (double)w[k][i]);
  return 0;
}
