// A gated recurrent unit over a window: the loops of recurrence.py, a block of rows at a time over all steps, so that the memory stays
// in registers and first-level cache. Arrays are in the plain order of their axes (set, time, row, feature); hidden is a multiple of 16.
#include <cmath>
#include <cstring>
#include <vector>

typedef float vec __attribute__((vector_size(64), aligned(4)));

// out (ROWS x 16 WIDE) = in (ROWS x depth) times table (depth x columns), from the table's given column on, plus start.
template <int ROWS, int WIDE>
static inline void product(const float* in, long stride, const float* table, long columns, long depth, const float* start, float* out,
                           long out_stride) {
    vec sum[ROWS][WIDE];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < WIDE; j++) sum[i][j] = start ? *(const vec*)(start + 16 * j) : vec{};
    for (long k = 0; k < depth; k++) {
        const float* line = table + k * columns;
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < WIDE; j++) sum[i][j] += in[i * stride + k] * *(const vec*)(line + 16 * j);
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < WIDE; j++) *(vec*)(out + i * out_stride + 16 * j) = sum[i][j];
}

template <int ROWS>
static inline void all_columns(const float* in, long stride, const float* table, long columns, long depth, const float* start, float* out) {
    long at = 0;
    for (; at + 48 <= columns; at += 48) product<ROWS, 3>(in, stride, table + at, columns, depth, start ? start + at : nullptr, out + at, columns);
    for (; at + 16 <= columns; at += 16) product<ROWS, 1>(in, stride, table + at, columns, depth, start ? start + at : nullptr, out + at, columns);
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <int ROWS>
static void forward_rows(const float* projected, const float* keep, const float* start, const float* down, const float* bias, float* memories,
                         float* gates, float* of_new, long time, long rows, long hidden, float* work) {
    float *memory = work, *sums = work + ROWS * hidden;
    std::memcpy(memory, start, sizeof(float) * ROWS * hidden);
    for (long t = 0; t < time; t++) {
        const float* kept = keep + t * rows;
        for (int i = 0; i < ROWS; i++)
            for (long j = 0; j < hidden; j++) memory[i * hidden + j] *= kept[i];
        all_columns<ROWS>(memory, hidden, down, 3 * hidden, hidden, bias, sums);
        for (int i = 0; i < ROWS; i++) {
            const float *x = projected + (t * rows + i) * 3 * hidden, *g = sums + i * 3 * hidden;
            float *gate = gates + (t * rows + i) * 3 * hidden, *m = memory + i * hidden;
            float *after = memories + (t * rows + i) * hidden, *fresh = of_new + (t * rows + i) * hidden;
#pragma omp simd
            for (long j = 0; j < hidden; j++) {
                float r = sigmoid(x[j] + g[j]), z = sigmoid(x[hidden + j] + g[hidden + j]);
                float n = 2.0f * sigmoid(2.0f * (x[2 * hidden + j] + r * g[2 * hidden + j])) - 1.0f;
                gate[j] = r, gate[hidden + j] = z, gate[2 * hidden + j] = n, fresh[j] = g[2 * hidden + j];
                after[j] = m[j] = n + z * (m[j] - n);
            }
        }
    }
}

template <int ROWS>
static void backward_rows(const float* grad, const float* memories, const float* gates, const float* of_new, const float* keep, const float* start,
                          const float* weight, float* of_projected, float* of_product, float* of_start, long time, long rows, long hidden,
                          float* work) {
    float *back = work, *through = work + ROWS * hidden;
    std::memset(back, 0, sizeof(float) * ROWS * hidden);
    for (long t = time - 1; t >= 0; t--) {
        for (int i = 0; i < ROWS; i++) {
            long row = t * rows + i;
            const float *d = grad + row * hidden, *gate = gates + row * 3 * hidden, *fresh = of_new + row * hidden;
            const float* before = t ? memories + (row - rows) * hidden : start + i * hidden;
            float *dx = of_projected + row * 3 * hidden, *dg = of_product + row * 3 * hidden, *b = back + i * hidden;
            float kept = keep[row];
#pragma omp simd
            for (long j = 0; j < hidden; j++) {
                float r = gate[j], z = gate[hidden + j], n = gate[2 * hidden + j], total = b[j] + d[j];
                float d_new = total * (1.0f - z) * (1.0f - n * n);
                float d_update = total * (before[j] * kept - n) * z * (1.0f - z);
                float d_reset = d_new * fresh[j] * r * (1.0f - r);
                dx[j] = dg[j] = d_reset, dx[hidden + j] = dg[hidden + j] = d_update;
                dx[2 * hidden + j] = d_new, dg[2 * hidden + j] = d_new * r;
                b[j] = total * z;
            }
        }
        all_columns<ROWS>(of_product + t * rows * 3 * hidden, 3 * hidden, weight, hidden, 3 * hidden, nullptr, through);
        for (int i = 0; i < ROWS; i++)
            for (long j = 0; j < hidden; j++) back[i * hidden + j] = (back[i * hidden + j] + through[i * hidden + j]) * keep[t * rows + i];
    }
    std::memcpy(of_start, back, sizeof(float) * ROWS * hidden);
}

extern "C" void gru_forward(const float* projected, const float* keep, const float* start, const float* down, const float* bias, float* memories,
                            float* gates, float* of_new, long time, long rows, long hidden) {
    std::vector<float> work(8 * 4 * hidden);
    for (long i = 0; i < rows;) {
        bool whole = i + 8 <= rows;
        (whole ? forward_rows<8> : forward_rows<1>)(projected + i * 3 * hidden, keep + i, start + i * hidden, down, bias, memories + i * hidden,
                                                    gates + i * 3 * hidden, of_new + i * hidden, time, rows, hidden, work.data());
        i += whole ? 8 : 1;
    }
}

extern "C" void gru_backward(const float* grad, const float* memories, const float* gates, const float* of_new, const float* keep,
                             const float* start, const float* weight, float* of_projected, float* of_product, float* of_start, long time,
                             long rows, long hidden) {
    std::vector<float> work(8 * 4 * hidden);
    for (long i = 0; i < rows;) {
        bool whole = i + 8 <= rows;
        (whole ? backward_rows<8> : backward_rows<1>)(grad + i * hidden, memories + i * hidden, gates + i * 3 * hidden, of_new + i * hidden,
                                                      keep + i, start + i * hidden, weight, of_projected + i * 3 * hidden,
                                                      of_product + i * 3 * hidden, of_start + i * hidden, time, rows, hidden, work.data());
        i += whole ? 8 : 1;
    }
}
