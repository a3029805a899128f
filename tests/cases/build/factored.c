/* Adafactor on a matrix, whose second moment is kept by rows and columns, and a vector, from an object file for these shapes, beside the rule in double precision. */
#include "factored.h"
#include <math.h>
#include <stdalign.h>
#include <stdio.h>

enum { ROWS = 2, COLUMNS = 3, N = 4, STEPS = 50 };
static alignas(64) unsigned char work[FACTORED_F32_WORK + 1];

int main(void) {
  float w[ROWS * COLUMNS], g[ROWS * COLUMNS], r[ROWS], c[COLUMNS], b[N], gb[N], v[N];
  double ew[ROWS * COLUMNS], er[ROWS] = {0}, ec[COLUMNS] = {0}, eb[N], ev[N] = {0};
  factored_hyper h;
  factored_defaults(&h);
  h.lr = 0.01;
  factored_f32_arrays a = {.w = {w, b}, .g = {g, gb}, .r = {r, NULL}, .c = {c, NULL}, .v = {NULL, v}};
  for (int i = 0; i < ROWS * COLUMNS; i++) ew[i] = w[i] = (float)cos(i);
  for (int i = 0; i < N; i++) eb[i] = b[i] = (float)sin(i + 1);
  if (factored_f32_init(&a, work)) return 1;
  for (int t = 1; t <= STEPS; t++) {
    for (int i = 0; i < ROWS * COLUMNS; i++) g[i] = (float)sin(3.0 * i + t);
    for (int i = 0; i < N; i++) gb[i] = (float)cos(2.0 * i + t);
    int code = factored_f32_step(&a, work, t, &h);
    if (code) return printf("%s\n", factored_error(code)), 1;
    double d = fmin(1 - pow(t, -h.decay_rate), h.beta2_cap), mean = 0;
    for (int i = 0; i < ROWS; i++) {
      double sum = 0;
      for (int j = 0; j < COLUMNS; j++) sum += (double)g[i * COLUMNS + j] * g[i * COLUMNS + j] + h.eps;
      er[i] = d * er[i] + (1 - d) * sum / COLUMNS, mean += er[i] / ROWS;
    }
    for (int j = 0; j < COLUMNS; j++) {
      double sum = 0;
      for (int i = 0; i < ROWS; i++) sum += (double)g[i * COLUMNS + j] * g[i * COLUMNS + j] + h.eps;
      ec[j] = d * ec[j] + (1 - d) * sum / ROWS;
    }
    for (int i = 0; i < ROWS * COLUMNS; i++) ew[i] -= h.lr * g[i] / sqrt(er[i / COLUMNS] / mean) / sqrt(ec[i % COLUMNS]) + h.weight_decay * ew[i];
    for (int i = 0; i < N; i++) ev[i] = d * ev[i] + (1 - d) * ((double)gb[i] * gb[i] + h.eps), eb[i] -= h.lr * gb[i] / sqrt(ev[i]) + h.weight_decay * eb[i];
  }
  double worst = 0;
  for (int i = 0; i < ROWS * COLUMNS; i++) worst = fmax(worst, fabs(w[i] - ew[i]));
  for (int i = 0; i < N; i++) worst = fmax(worst, fabs(b[i] - eb[i]));
  printf("%g\n", worst);
  return worst > 2e-5 || factored_f32_step(NULL, work, 1, &h) != FACTORED_NULL;
}
