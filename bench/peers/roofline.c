// The limit memory sets: fused optimizer loops in C with the same traffic. Build: gcc -O3 -march=native -ffast-math -fopenmp roofline.c -lm -o roofline
// Arguments: the number of parameters (50 M), and the one optimizer to run (all). One JSON line per optimizer: median and least milliseconds, and nominal GB/s.
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { REPEATS = 15, KINDS = 5 };
static const char *names[KINDS] = {"copy", "adamw", "lion", "sgdm", "clip+adamw"};
static const int bytes[KINDS] = {8, 28, 20, 20, 32};

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void copy(long n, float *restrict v, const float *restrict g) {
#pragma omp parallel for simd
  for (long i = 0; i < n; i++) v[i] = g[i];
}

static void adamw(long n, float *restrict p, const float *restrict g, float *restrict m, float *restrict v, int t, float scale) {
  float c1 = 1 / (1 - powf(.9f, t)), c2 = 1 / (1 - powf(.999f, t));
#pragma omp parallel for simd
  for (long i = 0; i < n; i++) {
    float gg = g[i] * scale, mm = .9f * m[i] + .1f * gg, vv = .999f * v[i] + .001f * gg * gg;
    m[i] = mm;
    v[i] = vv;
    p[i] -= 1e-3f * (mm * c1 / (sqrtf(fabsf(vv) * c2) + 1e-8f) + 1e-2f * p[i]);
  }
}

static void lion(long n, float *restrict p, const float *restrict g, float *restrict m) {
#pragma omp parallel for simd
  for (long i = 0; i < n; i++) {
    float u = .9f * m[i] + .1f * g[i], s = (u > 0) - (u < 0);
    p[i] -= 1e-4f * (s + 1e-2f * p[i]);
    m[i] = .99f * m[i] + .01f * g[i];
  }
}

static void momentum(long n, float *restrict p, const float *restrict g, float *restrict m) {
#pragma omp parallel for simd
  for (long i = 0; i < n; i++) {
    float mm = .9f * m[i] + g[i];
    m[i] = mm;
    p[i] -= 1e-3f * mm;
  }
}

static float clip_scale(long n, const float *restrict g) {
  double s = 0;
#pragma omp parallel for simd reduction(+ : s)
  for (long i = 0; i < n; i++) s += g[i] * g[i];
  return 1 / sqrt(s);
}

// On large pages where the system has them, as optc's buffers are.
static float *array(size_t size) {
  float *x = aligned_alloc(2 << 20, (size + (2 << 20) - 1) >> 21 << 21);
#ifdef MADV_HUGEPAGE
  madvise(x, size, MADV_HUGEPAGE);
#endif
  return x;
}

int main(int argc, char **argv) {
  long n = argc > 1 ? atol(argv[1]) : 50000000;
  size_t size = (4 * n + 63) / 64 * 64;
  float *p = array(size), *g = array(size), *m = array(size), *v = array(size);
#pragma omp parallel for
  for (long i = 0; i < n; i++) {
    p[i] = sinf(i);
    g[i] = cosf(i * 1.3f);
    m[i] = v[i] = 0;
  }
  for (int k = 0; k < KINDS; k++) {
    if (argc > 2 && strcmp(argv[2], names[k])) continue;
    double t[REPEATS];
    for (int r = 0; r < REPEATS; r++) {
      double start = omp_get_wtime();
      switch (k) {
        case 0: copy(n, v, g); break;
        case 1: adamw(n, p, g, m, v, r + 1, 1); break;
        case 2: lion(n, p, g, m); break;
        case 3: momentum(n, p, g, m); break;
        default: adamw(n, p, g, m, v, r + 1, clip_scale(n, g));
      }
      t[r] = omp_get_wtime() - start;
    }
    qsort(t, REPEATS, sizeof *t, ascending);
    printf("{\"section\":\"1-opt\",\"name\":\"C/%s\",\"threads\":%d,\"ms\":%.2f,\"ms_min\":%.2f,\"gbs\":%.2f,\"gbs_max\":%.2f}\n", names[k], omp_get_max_threads(),
           t[REPEATS / 2] * 1e3, t[0] * 1e3, bytes[k] * n / t[REPEATS / 2] / 1e9, bytes[k] * n / t[0] / 1e9);
  }
  fprintf(stderr, "%f\n", p[n / 2]);
}
