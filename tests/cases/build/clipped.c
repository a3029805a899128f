/* Three leaves under AdamW whose gradients are clipped by the norm of all of them, from an object file, beside the rule in double precision; once in one list, once in two by rounds. */
#include "clipped.h"
#include <math.h>
#include <stdio.h>

enum { LEAVES = 3, MOST = 40000, STEPS = 20 };
static const size_t length[LEAVES] = {3, MOST, 100};
static float w[2][LEAVES][MOST], g[LEAVES][MOST], m[2][LEAVES][MOST], v[2][LEAVES][MOST];
static double ew[LEAVES][MOST], em[LEAVES][MOST], ev[LEAVES][MOST];

int main(void) {
  clipped_hyper h;
  clipped_f32_step_leaf leaves[2][LEAVES];
  clipped_defaults(&h);
  h.lr = 0.01;
  for (int k = 0; k < LEAVES; k++) {
    for (size_t i = 0; i < length[k]; i++) ew[k][i] = w[0][k][i] = w[1][k][i] = (float)cos((double)i);
    for (int c = 0; c < 2; c++) {
      clipped_f32_step_leaf leaf = {length[k], w[c][k], g[k], m[c][k], v[c][k]};
      leaves[c][k] = leaf;
      if (clipped_f32_init(length[k], w[c][k], m[c][k], v[c][k])) return 1;
    }
  }
  for (int t = 1; t <= STEPS; t++) {
    double squares = 0;
    for (int k = 0; k < LEAVES; k++) {
      for (size_t i = 0; i < length[k]; i++) g[k][i] = (float)sin((double)(i + 7 * k) * t), squares += (double)g[k][i] * g[k][i];
    }
    double factor = fmin(1, h.max_norm / sqrt(squares));
    for (int k = 0; k < LEAVES; k++) {
      for (size_t i = 0; i < length[k]; i++) {
        double x = factor * g[k][i];
        em[k][i] = h.beta1 * em[k][i] + (1 - h.beta1) * x, ev[k][i] = h.beta2 * ev[k][i] + (1 - h.beta2) * x * x;
        double mhat = em[k][i] / (1 - pow(h.beta1, t)), vhat = ev[k][i] / (1 - pow(h.beta2, t));
        ew[k][i] -= h.lr * (mhat / (sqrt(vhat) + h.eps) + h.weight_decay * ew[k][i]);
      }
    }
    int code = clipped_f32_step_many(LEAVES, leaves[0], t, &h);
    if (code) return printf("%s\n", clipped_error(code)), 1;
    double folds[CLIPPED_FOLDS] = {0};
    for (int round = 0; round < CLIPPED_ROUNDS; round++) {
      if (clipped_f32_step_round(1, leaves[1], t, &h, round, folds) || clipped_f32_step_round(2, leaves[1] + 1, t, &h, round, folds)) return 1;
    }
  }
  double worst = 0;
  for (int k = 0; k < LEAVES; k++) {
    for (size_t i = 0; i < length[k]; i++) {
      worst = fmax(worst, fabs(w[0][k][i] - ew[k][i]));
      if (w[0][k][i] != w[1][k][i]) return printf("rounds differ\n"), 1;
    }
  }
  printf("%g\n", worst);
  double folds[CLIPPED_FOLDS] = {0};
  int wrong = clipped_f32_step_round(1, leaves[1], 1, &h, CLIPPED_ROUNDS, folds) != CLIPPED_ROUND || clipped_f32_step_many(1, NULL, 1, &h) != CLIPPED_NULL;
  return wrong || worst > 2e-5;
}
