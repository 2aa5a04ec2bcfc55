// A gated recurrent layer over a window: the loops of recurrence.py. A block of rows goes through all steps together, so that all a step
// needs lies in the first caches. Arrays are in the plain order of their axes (time, row, feature); inputs and hidden are multiples of 16.
#include <algorithm>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
static const int LANES = 16, TILES[] = {8, 8, 8, 6};  // numbers in a register; rows by 1, 2, 3, 4 registers whose sums are held in registers
#elif defined(__AVX__)
static const int LANES = 8, TILES[] = {4, 4, 4, 3};
#else
static const int LANES = 4, TILES[] = {4, 4, 4, 3};
#endif
static const long BLOCK = 96;  // rows that go through the steps together
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));

static inline vec get(const float* from) { return *(const vec*)from; }
static inline void put(float* to, vec value) { *(vec*)to = value; }

// A matrix (row i, number k at rows[i * step + k * depth_step]) times a table of `depth` lines of `columns` numbers.
struct Product {
    const float* rows;
    long step, depth_step;
    const float* table;
    long columns, depth;
};

template <int ROWS, int WIDE>
static inline void add(const Product& of, long row, long at, vec (&sum)[ROWS][WIDE]) {
    const float* in = of.rows + row * of.step;
    for (long k = 0; k < of.depth; k++) {
        const float* line = of.table + k * of.columns + at;
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < WIDE; j++) sum[i][j] += in[i * of.step + k * of.depth_step] * get(line + LANES * j);
    }
}

template <int ROWS, int WIDE>
static inline void tile(const Product* first, const Product* last, long row, long at, const float* start, long start_step, float* out, long step) {
    vec sum[ROWS][WIDE];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < WIDE; j++) sum[i][j] = start ? get(start + (row + i) * start_step + at + LANES * j) : vec{};
    for (const Product* of = first; of < last; of++) add<ROWS, WIDE>(*of, row, at, sum);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < WIDE; j++) put(out + (row + i) * step + at + LANES * j, sum[i][j]);
}

template <int WIDE>
static void strip(const Product* first, const Product* last, long rows, long at, const float* start, long start_step, float* out, long step) {
    const int tall = TILES[WIDE - 1];
    long row = 0;
    for (; row + tall <= rows; row += tall) tile<tall, WIDE>(first, last, row, at, start, start_step, out, step);
    for (; row < rows; row++) tile<1, WIDE>(first, last, row, at, start, start_step, out, step);
}

// out (rows x columns) = start (rows `start_step` apart, or none) + the sum of the products; a strip of a table serves all rows at once.
template <int COUNT>
static void multiply(const Product (&of)[COUNT], long rows, long columns, const float* start, long start_step, float* out, long step) {
    long at = 0;
    for (; at + 4 * LANES <= columns; at += 4 * LANES) strip<4>(of, of + COUNT, rows, at, start, start_step, out, step);
    for (; at + 3 * LANES <= columns; at += 3 * LANES) strip<3>(of, of + COUNT, rows, at, start, start_step, out, step);
    for (; at + 2 * LANES <= columns; at += 2 * LANES) strip<2>(of, of + COUNT, rows, at, start, start_step, out, step);
    for (; at + LANES <= columns; at += LANES) strip<1>(of, of + COUNT, rows, at, start, start_step, out, step);
}

// tanh x = p / q (the rational function that Eigen uses; its error is some units in the last place); NaN stays NaN.
static inline void tanh_as_quotient(vec x, vec& p, vec& q) {
    const float most = 7.90531110763549805f;
    x = x > most ? vec{} + most : x;
    x = x < -most ? vec{} - most : x;
    vec s = x * x;
    p = s * -2.76076847742355e-16f + 2.00018790482477e-13f;
    p = p * s - 8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = (p * s + 4.89352455891786e-03f) * x;
    q = s * 1.19825839466702e-06f + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
}

static void transpose(const float* from, long lines, long columns, float* to) {
    for (long first = 0; first < lines; first += 16)
        for (long j = 0; j < columns; j++)
            for (long i = first; i < first + 16; i++) to[j * lines + i] = from[i * columns + j];
}

// `work` of every set of weights, several threads taking turns at the sets.
template <class Work>
static void for_each_set(long sets, long threads, const Work& work) {
    std::vector<std::thread> others;
    auto share = [&](long thread) {
        for (long set = thread; set < sets; set += threads) work(set);
    };
    threads = std::max(1L, std::min(threads, sets));
    for (long thread = 1; thread < threads; thread++) others.emplace_back(share, thread);
    share(0);
    for (auto& other : others) other.join();
}

// Sums lie side by side as a_r + g_r, a_z + g_z, a_n, g_n. `gates` and `of_new` may be null: nothing is kept for a gradient then.
static void forward_set(const float* x, const float* keep, const float* start, const float* of_x, const float* of_memory, const float* bias_x,
                            const float* bias_memory, float* memories, float* gates, float* of_new, long time, long rows, long inputs, long hidden) {
    const long three = 3 * hidden, four = 4 * hidden, wide = four + LANES;  // not a power of two: lines would share places in the cache
    std::vector<float> work((inputs + hidden) * three + four + BLOCK * (hidden + wide));
    float *down_x = work.data(), *down_memory = down_x + inputs * three, *bias = down_memory + hidden * three;
    float *memory = bias + four, *sums = memory + BLOCK * hidden;
    transpose(of_x, three, inputs, down_x);
    transpose(of_memory, three, hidden, down_memory);
    for (long j = 0; j < 2 * hidden; j++) bias[j] = bias_x[j] + bias_memory[j];
    std::copy(bias_x + 2 * hidden, bias_x + three, bias + 2 * hidden);
    std::copy(bias_memory + 2 * hidden, bias_memory + three, bias + three);
    for (long first = 0; first < rows; first += BLOCK) {
        const long here = std::min(BLOCK, rows - first);
        std::copy(start + first * hidden, start + (first + here) * hidden, memory);
        for (long t = 0; t < time; t++) {
            const long at = t * rows + first;
            for (long i = 0; i < here; i++)
                if (keep[at + i] != 1.0f)
                    for (long j = 0; j < hidden; j++) memory[i * hidden + j] *= keep[at + i];
            auto from_x = [&](long column) { return Product{x + at * inputs, inputs, 1, down_x + column, three, inputs}; };
            auto from_memory = [&](long column) { return Product{memory, hidden, 1, down_memory + column, three, hidden}; };
            multiply({from_x(0), from_memory(0)}, here, 2 * hidden, bias, 0, sums, wide);
            multiply({from_x(2 * hidden)}, here, hidden, bias + 2 * hidden, 0, sums + 2 * hidden, wide);
            multiply({from_memory(2 * hidden)}, here, hidden, bias + three, 0, sums + three, wide);
            for (long i = 0; i < here; i++)
                for (long j = 0; j < hidden; j += LANES) {
                    const float* s = sums + i * wide + j;
                    vec p_r, q_r, p_z, q_z, p, q, g = get(s + three), h = get(memory + i * hidden + j);
                    tanh_as_quotient(get(s) * 0.5f, p_r, q_r);
                    tanh_as_quotient(get(s + hidden) * 0.5f, p_z, q_z);
                    vec half = 0.5f / (q_r * q_z), r = p_r * q_z * half + 0.5f, z = p_z * q_r * half + 0.5f;  // sigmoid 2x = (1 + tanh x) / 2
                    tanh_as_quotient(get(s + 2 * hidden) + r * g, p, q);
                    vec n = p / q;
                    h = n + z * (h - n);
                    put(memory + i * hidden + j, h);
                    put(memories + (at + i) * hidden + j, h);
                    if (gates) {
                        float* gate = gates + (at + i) * three + j;
                        put(gate, r), put(gate + hidden, z), put(gate + 2 * hidden, n);
                        put(of_new + (at + i) * hidden + j, g);
                    }
                }
        }
    }
}

// Gradients by x, by the start, and by weights and biases, which are summed up over all steps and rows.
static void backward_set(const float* grad, const float* x, const float* memories, const float* gates, const float* of_new, const float* keep,
                             const float* start, const float* of_x, const float* of_memory, float* grad_x, float* grad_start, float* grad_of_x,
                             float* grad_of_memory, float* grad_bias_x, float* grad_bias_memory, long time, long rows, long inputs, long hidden) {
    const long two = 2 * hidden, three = 3 * hidden, four = 4 * hidden, wide = four + LANES;
    std::vector<float> work(BLOCK * (2 * hidden + wide) + four);
    float *back = work.data(), *before = back + BLOCK * hidden, *sums = before + BLOCK * hidden, *bias = sums + BLOCK * wide;
    std::fill(bias, bias + four, 0.0f);
    std::fill(grad_of_x, grad_of_x + three * inputs, 0.0f);
    std::fill(grad_of_memory, grad_of_memory + three * hidden, 0.0f);
    for (long first = 0; first < rows; first += BLOCK) {
        const long here = std::min(BLOCK, rows - first);
        std::fill(back, back + here * hidden, 0.0f);
        for (long t = time - 1; t >= 0; t--) {
            const long at = t * rows + first;
            const float* last = t ? memories + (at - rows) * hidden : start + first * hidden;
            for (long j = 0; j < hidden; j += LANES) {
                vec total_r{}, total_z{}, total_n{}, total_g{};
                for (long i = 0; i < here; i++) {
                    const float* gate = gates + (at + i) * three + j;
                    vec r = get(gate), z = get(gate + hidden), n = get(gate + two);
                    vec d = get(back + i * hidden + j) + get(grad + (at + i) * hidden + j), h = get(last + i * hidden + j) * keep[at + i];
                    vec d_n = d * (1.0f - z) * (1.0f - n * n), d_z = d * (h - n) * z * (1.0f - z), d_g = d_n * r;
                    vec d_r = d_n * get(of_new + (at + i) * hidden + j) * r * (1.0f - r);
                    float* sum = sums + i * wide + j;
                    put(sum, d_r), put(sum + hidden, d_z), put(sum + two, d_n), put(sum + three, d_g);
                    put(before + i * hidden + j, h);
                    put(back + i * hidden + j, d * z);
                    total_r += d_r, total_z += d_z, total_n += d_n, total_g += d_g;
                }
                float* total = bias + j;
                put(total, get(total) + total_r), put(total + hidden, get(total + hidden) + total_z);
                put(total + two, get(total + two) + total_n), put(total + three, get(total + three) + total_g);
            }
            multiply({{sums, wide, 1, of_x, inputs, three}}, here, inputs, nullptr, 0, grad_x + at * inputs, inputs);
            multiply({{sums, wide, 1, of_memory, hidden, two}, {sums + three, wide, 1, of_memory + two * hidden, hidden, hidden}}, here, hidden, back,
                     hidden, back, hidden);
            for (long i = 0; i < here; i++)
                if (keep[at + i] != 1.0f)
                    for (long j = 0; j < hidden; j++) back[i * hidden + j] *= keep[at + i];
            auto outer = [&](const float* of_sums, const float* of_rows, long columns, long lines, float* out) {
                multiply({{of_sums, 1, wide, of_rows, columns, here}}, lines, columns, out, columns, out, columns);
            };
            outer(sums, x + at * inputs, inputs, three, grad_of_x);
            outer(sums, before, hidden, two, grad_of_memory);
            outer(sums + three, before, hidden, hidden, grad_of_memory + two * hidden);
        }
        std::copy(back, back + here * hidden, grad_start + first * hidden);
    }
    std::copy(bias, bias + three, grad_bias_x);
    std::copy(bias, bias + two, grad_bias_memory);
    std::copy(bias + three, bias + four, grad_bias_memory + two);
}

extern "C" void gru_forward(const float* x, const float* keep, const float* start, const float* of_x, const float* of_memory, const float* bias_x,
                            const float* bias_memory, float* memories, float* gates, float* of_new, long sets, long time, long rows, long inputs,
                            long hidden, long threads) {
    const long steps = time * rows, three = 3 * hidden;
    for_each_set(sets, threads, [&](long s) {
        forward_set(x + s * steps * inputs, keep + s * steps, start + s * rows * hidden, of_x + s * three * inputs, of_memory + s * three * hidden,
                    bias_x + s * three, bias_memory + s * three, memories + s * steps * hidden, gates ? gates + s * steps * three : nullptr,
                    of_new ? of_new + s * steps * hidden : nullptr, time, rows, inputs, hidden);
    });
}

extern "C" void gru_backward(const float* grad, const float* x, const float* memories, const float* gates, const float* of_new, const float* keep,
                             const float* start, const float* of_x, const float* of_memory, float* grad_x, float* grad_start, float* grad_of_x,
                             float* grad_of_memory, float* grad_bias_x, float* grad_bias_memory, long sets, long time, long rows, long inputs,
                             long hidden, long threads) {
    const long steps = time * rows, three = 3 * hidden;
    for_each_set(sets, threads, [&](long s) {
        backward_set(grad + s * steps * hidden, x + s * steps * inputs, memories + s * steps * hidden, gates + s * steps * three,
                     of_new + s * steps * hidden, keep + s * steps, start + s * rows * hidden, of_x + s * three * inputs,
                     of_memory + s * three * hidden, grad_x + s * steps * inputs, grad_start + s * rows * hidden, grad_of_x + s * three * inputs,
                     grad_of_memory + s * three * hidden, grad_bias_x + s * three, grad_bias_memory + s * three, time, rows, inputs, hidden);
    });
}
