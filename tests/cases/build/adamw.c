/* Trains w to fit y = 2 x - 1 by AdamW from an object file, and compares the last weights with the rule in double precision. */
#include "adamw.h"
#include <math.h>
#include <stdio.h>

enum { N = 2, STEPS = 200 };

static void gradient(const double *w, double *g) {
  g[0] = g[1] = 0;
  for (int i = 0; i < 32; i++) {
    double x = i / 16.0 - 1, error = w[0] * x + w[1] - (2 * x - 1);
    g[0] += error * x / 16, g[1] += error / 16;
  }
}

int main(void) {
  float w[N] = {0}, g[N], m[N], v[N];
  double exact[N] = {0}, eg[N], em[N] = {0}, ev[N] = {0};
  adamw_hyper h;
  adamw_defaults(&h);
  h.lr = 0.05;
  if (adamw_f32_init(N, w, m, v)) return 1;
  for (int t = 1; t <= STEPS; t++) {
    double here[N] = {w[0], w[1]}, wide[N];
    gradient(here, wide);
    for (int i = 0; i < N; i++) g[i] = (float)wide[i];
    int code = adamw_f32_step(N, w, g, m, v, t, &h);
    if (code) return printf("%s\n", adamw_error(code)), 1;
    gradient(exact, eg);
    for (int i = 0; i < N; i++) {
      em[i] = h.beta1 * em[i] + (1 - h.beta1) * eg[i], ev[i] = h.beta2 * ev[i] + (1 - h.beta2) * eg[i] * eg[i];
      double mhat = em[i] / (1 - pow(h.beta1, t)), vhat = ev[i] / (1 - pow(h.beta2, t));
      exact[i] -= h.lr * (mhat / (sqrt(vhat) + h.eps) + h.weight_decay * exact[i]);
    }
  }
  printf("%.5f %.5f\n", w[0], w[1]);
  h.beta1 = 1;
  int wrong = adamw_f32_step(N, w, g, m, v, 1, &h) != ADAMW_RANGE_BETA1 || adamw_f32_step(N, w, g, NULL, v, 1, &h) != ADAMW_NULL;
  return wrong || fabs(w[0] - exact[0]) > 1e-4 || fabs(w[1] - exact[1]) > 1e-4;
}
