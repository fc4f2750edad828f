/* The slow half of ggml's quantizers, one super-block in each SIMD lane: the same bytes, many times sooner.

   Every sum in ggml's search runs in order, so no compiler may spread one block over several lanes. Blocks know nothing
   of each other, though: here lane k does for block k exactly what ggml's scalar code does, operation by operation.
   Compile with -ffp-contract=off -fno-math-errno. Weights must be finite. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define REGISTER 16 /* floats */
#elif defined(__AVX__)
#define REGISTER 8
#else
#define REGISTER 4
#endif
#ifdef __clang__
enum { LANES = 2 * REGISTER }; /* a sum in order waits for itself: two at a time wait less; gcc would take them apart */
#else
enum { LANES = REGISTER };
#endif

typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline))
#define WEIGHTS 256 /* of a super-block */
#define TINY 1e-15f /* a block that is smaller than this is zero */

/* Lanes */

INLINE F all(float value) { return value - (F){0}; }
INLINE I every(int32_t value) { return value - (I){0}; }
INLINE F where(I mask, F yes, F no) { return (F)((mask & (I)yes) | (~mask & (I)no)); }
INLINE I choose(I mask, I yes, I no) { return (mask & yes) | (~mask & no); }
INLINE F least(F a, F b) { return where(a < b, a, b); }
INLINE F most(F a, F b) { return where(a > b, a, b); }
INLINE I at_most(I a, int32_t b) { return choose(a < b, a, every(b)); }
INLINE I within(I a, int32_t low, int32_t high) {
    I capped = at_most(a, high);
    return choose(capped > low, capped, every(low));
}
INLINE F magnitude(F a) { return (F)((I)a & 0x7fffffff); }
INLINE F number(I a) { return __builtin_convertvector(a, F); }
INLINE int any(I mask) {
    int32_t sum = 0;
    for (int k = 0; k < LANES; k++) sum |= mask[k];
    return sum != 0;
}

INLINE F root(F a) {
    float lanes[LANES];
    memcpy(lanes, &a, sizeof a);
    for (int k = 0; k < LANES; k++) lanes[k] = sqrtf(lanes[k]);
    memcpy(&a, lanes, sizeof a);
    return a;
}

/* Round to the nearest integer as ggml does: beyond 2^22 and for what is no number, whatever the mantissa holds. */
INLINE I nearest(F a) { return ((I)(a + 12582912.f) & 0x7fffff) - 0x400000; }

/* The same as a float, for what is known to lie within 2^22. */
INLINE F rounded(F a) { return (a + 12582912.f) - 12582912.f; }

/* f32 to the bits of f16, to the nearest, ties to even. */
INLINE I to_half(F value) {
    I bits = (I)value, size = bits & 0x7fffffff;
    I normal = (size - (112 << 23) + 0xfff + ((size >> 13) & 1)) >> 13;
    I small = (I)((F)size + .5f) - 0x3f000000; /* in steps of 2^-24, which is the last bit of a half */
    I half = choose(size < 113 << 23, small, normal);
    half = choose(size >= 143 << 23, every(0x7c00), half);
    half = choose(size > 0x7f800000, every(0x7e00), half);
    return half | ((bits >> 16) & 0x8000);
}

INLINE F from_half(I half) {
    I size = half & 0x7fff;
    I normal = (size << 13) + (112 << 23) + ((size >= 0x7c00) & (112 << 23));
    F small = number(size) * 0x1p-24f;
    return (F)(choose(size < 0x400, (I)small, normal) | ((half & 0x8000) << 16));
}

/* Searches: n weights of each lane's block, and the codes of least error for them */

typedef struct {
    F scale, low;    /* what a search ends with: weight = scale * code + low */
    F inverse, base; /* what gave its codes: weight - base, times inverse, rounded */
    I zero;          /* or they are 0, whatever else is said */
} Fit;

typedef struct {
    int top, steps;    /* codes 0 … top */
    float first, step; /* top + first codes are laid over the range, then `step` more each time */
    int absolute;      /* the error is a distance, not its square */
} Search;

INLINE F unsigned_code(F value, int top, int exact) {
    return exact ? number(within(nearest(value), 0, top)) : most(least(rounded(value), all(top)), all(0));
}

INLINE F weighted_error(int absolute, F weight, F off) { return weight * (absolute ? magnitude(off) : off * off); }

INLINE I reaches_far(F inverse, F a, F b) { return ~(magnitude(inverse) * most(magnitude(a), magnitude(b)) < 0x1p21f); }

/* A scale, and a low end that is not above zero. Only with `exact` is it what ggml finds in lanes marked `strange`. */
INLINE Fit try_with_low(int n, Search s, const F *x, const F *w, int exact, I *strange) {
    F bottom = x[0], high = x[0], sum_w = w[0], sum_x = sum_w * x[0];
    for (int i = 1; i < n; i++) {
        bottom = least(x[i], bottom);
        high = most(x[i], high);
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    F low = where(bottom > 0.f, all(0), bottom), best_error = all(0), codes[32];
    F inverse = (float)s.top / (high - low), scale = 1.f / inverse;
    I flat = high == low, far = reaches_far(inverse, bottom - low, high - low);
    for (int i = 0; i < n; i++) {
        F off = scale * unsigned_code(inverse * (x[i] - low), s.top, exact) + low - x[i];
        best_error += weighted_error(s.absolute, w[i], off);
    }
    Fit best = {scale, low, inverse, low, flat};
    for (int trial = 0; trial <= s.steps; trial++) {
        F sum_l = all(0), sum_l2 = all(0), sum_xl = all(0), error = all(0);
        inverse = (s.first + s.step * (float)trial + (float)s.top) / (high - low);
        far |= reaches_far(inverse, bottom - low, high - low);
        for (int i = 0; i < n; i++) {
            F code = codes[i] = unsigned_code(inverse * (x[i] - low), s.top, exact);
            F weighted = w[i] * code;
            sum_l += weighted;
            sum_l2 += weighted * code;
            sum_xl += weighted * x[i];
        }
        F determinant = sum_w * sum_l2 - sum_l * sum_l;
        F new_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        I above = new_low > 0.f;
        new_low = where(above, all(0), new_low);
        scale = where(above, sum_xl, sum_w * sum_xl - sum_x * sum_l) / where(above, sum_l2, determinant);
        for (int i = 0; i < n; i++) error += weighted_error(s.absolute, w[i], scale * codes[i] + new_low - x[i]);
        I better = (determinant > 0.f) & (error < best_error);
        best_error = where(better, error, best_error);
        best.scale = where(better, scale, best.scale);
        best.inverse = where(better, inverse, best.inverse);
        best.base = where(better, low, best.base);
        low = where(better, new_low, low); /* the next trials start from it */
    }
    *strange = far & ~flat; /* whose error was 0 from the start */
    best.low = low;
    return best;
}

INLINE Fit fit_with_low(int n, Search search, const F *x, const F *w) {
    I strange;
    Fit fit = try_with_low(n, search, x, w, 0, &strange);
    return any(strange) ? try_with_low(n, search, x, w, 1, &strange) : fit;
}

INLINE F largest(int n, const F *x) {
    F size = all(0), peak = all(0);
    for (int i = 0; i < n; i++) {
        I larger = magnitude(x[i]) > size;
        size = where(larger, magnitude(x[i]), size);
        peak = where(larger, x[i], peak);
    }
    return peak;
}

INLINE F signed_code(F value, int top, int exact) {
    return exact ? number(within(nearest(value), -top, top - 1)) : most(least(rounded(value), all(top - 1)), all(-top));
}

/* A scale for codes -top … top - 1; `exact` where the weights may be infinite or no number. */
INLINE Fit fit_signed(int n, int top, const F *x, const F *w, int exact) {
    F weighted[32], peak = largest(n, x), inverse = (float)-top / peak, sum_lx = all(0), sum_l2 = all(0);
    for (int i = 0; i < n; i++) {
        F code = signed_code(inverse * x[i], top, exact);
        weighted[i] = w[i] * x[i];
        sum_lx += weighted[i] * code;
        sum_l2 += w[i] * code * code;
    }
    F scale = where(sum_l2 != 0.f, sum_lx / sum_l2, all(0)), best = scale * sum_lx;
    Fit fit = {scale, all(0), inverse, all(0), magnitude(peak) < TINY};
    for (int trial = -9; trial <= 9; trial++) {
        if (trial == 0) continue;
        inverse = -((float)top + .1f * (float)trial) / peak;
        sum_lx = sum_l2 = all(0);
        for (int i = 0; i < n; i++) {
            F code = signed_code(inverse * x[i], top, exact);
            sum_lx += weighted[i] * code;
            sum_l2 += w[i] * code * code;
        }
        I better = (sum_l2 > 0.f) & (sum_lx * sum_lx > best * sum_l2);
        scale = sum_lx / sum_l2;
        best = where(better, scale * sum_lx, best);
        fit.scale = where(better, scale, fit.scale);
        fit.inverse = where(better, inverse, fit.inverse);
    }
    fit.scale = where(fit.zero, all(0), fit.scale);
    return fit;
}

/* The code that a search ended with: 0 … top. */
INLINE I code_with_low(Fit fit, F x, int top) { return within(nearest(fit.inverse * (x - fit.base)), 0, top); }

/* The code that a search ended with: 0 … 2 top - 1. */
INLINE I code_signed(Fit fit, F x, int top) {
    return ~fit.zero & (within(nearest(fit.inverse * x), -top, top - 1) + top);
}

/* A scale for codes -top … top - 1, weights squared as their importance: one code after the other is moved. */
INLINE F fit_by_moves(int n, int top, const F *x, I *codes) {
    F peak = largest(n, x), inverse = (float)-top / peak, sum_lx = all(0), sum_l2 = all(0);
    for (int i = 0; i < n; i++) {
        F w = x[i] * x[i];
        codes[i] = within(nearest(inverse * x[i]), -top, top - 1);
        sum_lx += w * x[i] * number(codes[i]);
        sum_l2 += w * number(codes[i]) * number(codes[i]);
    }
    I moved = every(-1);
    for (int round = 0; round < 5 && any(moved); round++) {
        moved = every(0);
        for (int i = 0; i < n; i++) {
            F w = x[i] * x[i], code = number(codes[i]);
            F lx = sum_lx - w * x[i] * code, l2 = sum_l2 - w * code * code;
            I next = within(nearest(x[i] * l2 / lx), -top, top - 1);
            I better = (lx > 0.f) & (next != codes[i]);
            lx += w * x[i] * number(next);
            l2 += w * number(next) * number(next);
            better &= (l2 > 0.f) & (lx * lx * sum_l2 > sum_lx * sum_lx * l2);
            codes[i] = choose(better, next, codes[i]);
            sum_lx = where(better, lx, sum_lx);
            sum_l2 = where(better, l2, sum_l2);
            moved |= better;
        }
    }
    I zero = magnitude(peak) < TINY;
    for (int i = 0; i < n; i++) codes[i] = choose(zero, every(0), codes[i] + top);
    return where(~zero & (sum_l2 > 0.f), sum_lx / sum_l2, all(0));
}

/* A scale for codes 0 … top of values that are not negative; ggml keeps codes in a byte, so others wrap around. */
INLINE F fit_positive(int n, int top, const F *x, const F *w, I *codes) {
    F peak = all(0), best_error = all(0), sum_lx = all(0), sum_l2 = all(0);
    for (int i = 0; i < n; i++) peak = most(peak, x[i]);
    F best = (float)top / peak, scale = 1.f / best;
    for (int i = 0; i < n; i++) {
        F off = x[i] - scale * number(nearest(best * x[i]) & 255);
        best_error += w[i] * off * off;
    }
    for (int trial = -4; trial <= 4; trial++) {
        if (trial == 0) continue;
        F inverse = (.1f * (float)trial + (float)top) / peak, error = all(0);
        scale = 1.f / inverse;
        for (int i = 0; i < n; i++) {
            F off = x[i] - scale * number(at_most(nearest(inverse * x[i]), top));
            error += w[i] * off * off;
        }
        I better = error < best_error;
        best_error = where(better, error, best_error);
        best = where(better, inverse, best);
    }
    for (int i = 0; i < n; i++) {
        I code = at_most(nearest(best * x[i]), top);
        codes[i] = code & 255;
        sum_lx += w[i] * x[i] * number(code);
        sum_l2 += w[i] * number(code) * number(code);
    }
    I moved = every(-1);
    for (int round = 0; round < 5 && any(moved); round++) {
        moved = every(0);
        for (int i = 0; i < n; i++) {
            F code = number(codes[i]), lx = sum_lx - w[i] * x[i] * code, l2 = sum_l2 - w[i] * code * code;
            I next = at_most(nearest(x[i] * l2 / lx), top);
            I better = (lx > 0.f) & (l2 > 0.f) & (next != codes[i]);
            lx += w[i] * x[i] * number(next);
            l2 += w[i] * number(next) * number(next);
            better &= lx * lx * sum_l2 > sum_lx * sum_lx * l2;
            codes[i] = choose(better, next & 255, codes[i]);
            sum_lx = where(better, lx, sum_lx);
            sum_l2 = where(better, l2, sum_l2);
            moved |= better;
        }
    }
    I zero = peak < TINY;
    for (int i = 0; i < n; i++) codes[i] &= ~zero;
    return where(~zero & (sum_l2 > 0.f), sum_lx / sum_l2, all(0));
}

static const float LEVELS[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const float BORDERS[15] = {-115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101};

/* The nearest level, the upper one at a tie or where the value is no number. */
INLINE F level(F value) {
    F found = all(LEVELS[15]);
#pragma GCC unroll 15
    for (int i = 14; i >= 0; i--) found = where(value < BORDERS[i], all(LEVELS[i]), found);
    return found;
}

INLINE I level_index(F value) {
    I index = every(15);
#pragma GCC unroll 15
    for (int i = 0; i < 15; i++) index += value < BORDERS[i];
    return index;
}

/* A scale for the 16 levels. */
INLINE F fit_levels(const F *x, const F *w) {
    F below[32], beyond[32], border[32], peak = largest(32, x), inverse = 1.f / (-peak / LEVELS[0]);
    F sum_lx = all(0), sum_l2 = all(0);
    for (int i = 0; i < 32; i++) {
        F value = level(inverse * x[i]), weighted = w[i] * value;
        sum_lx += weighted * x[i];
        sum_l2 += weighted * value;
        /* the trials move a weight by 11 % at most, past one border between levels or none */
        F a = level((-7.f + LEVELS[0]) / peak * x[i]), b = level((7.f + LEVELS[0]) / peak * x[i]);
        below[i] = least(a, b);
        beyond[i] = most(a, b);
        border[i] = .5f * (a + b);
    }
    F scale = where(sum_l2 > 0.f, sum_lx / sum_l2, all(0)), best = scale * sum_lx;
    for (int trial = -7; trial <= 7; trial++) {
        inverse = ((float)trial + LEVELS[0]) / peak;
        sum_lx = sum_l2 = all(0);
        for (int i = 0; i < 32; i++) {
            F value = where(inverse * x[i] < border[i], below[i], beyond[i]), weighted = w[i] * value;
            sum_lx += weighted * x[i];
            sum_l2 += weighted * value;
        }
        I better = (sum_l2 > 0.f) & (sum_lx * sum_lx > best * sum_l2);
        scale = where(better, sum_lx / sum_l2, scale);
        best = where(better, scale * sum_lx, best);
    }
    return where(magnitude(peak) < TINY, all(0), scale);
}

/* Blocks: their weights, the importance of each, their codes, and one element for each byte as it lies in a file */

typedef struct {
    F x[WEIGHTS], w[WEIGHTS];
    I codes[WEIGHTS], bytes[WEIGHTS];
} Tile;

INLINE F sum_of_squares(int n, const F *x) {
    F sum = all(0);
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    return sum;
}

/* Weigh each weight's error by its importance and its size; give the sum. */
INLINE F weigh(int n, const F *x, const F *importance, F square, F *w) {
    F sum = all(0);
    for (int i = 0; i < n; i++) {
        w[i] = importance[i] * root(square + x[i] * x[i]);
        sum += w[i];
    }
    return sum;
}

INLINE void put_half(I half, I *bytes) {
    bytes[0] = half;
    bytes[1] = half >> 8;
}

/* 2 bits of each code: four codes that are 32 apart in a byte. */
INLINE void put_pairs(const I *codes, I *bytes) {
    for (int part = 0; part < 2; part++, codes += 128, bytes += 32)
        for (int i = 0; i < 32; i++)
            bytes[i] = (codes[i] & 3) | (codes[i + 32] & 3) << 2 | (codes[i + 64] & 3) << 4 | (codes[i + 96] & 3) << 6;
}

static void encode_q2_k(const F *x, const F *w, I *codes, I *bytes) {
    Fit fit[16];
    F weights[16], sums[16], scales[16], lows[16], max_scale = all(0), max_low = all(0);
    I scale_codes[16], low_codes[16], half, half_low;
    F square = sum_of_squares(WEIGHTS, x) / (float)WEIGHTS;
    for (int j = 0; j < 16; j++) {
        const F *part = x + 16 * j;
        if (w) {
            sums[j] = weigh(16, part, w + 16 * j, square, weights);
            fit[j] = fit_with_low(16, (Search){3, 36, -.9f, .05f, 0}, part, weights);
        } else {
            for (int i = 0; i < 16; i++) weights[i] = magnitude(part[i]);
            fit[j] = fit_with_low(16, (Search){3, 15, -.5f, .1f, 1}, part, weights);
        }
        scales[j] = fit[j].scale;
        lows[j] = -fit[j].low;
        max_scale = where(scales[j] > max_scale, scales[j], max_scale);
        max_low = where(lows[j] > max_low, lows[j], max_low);
    }
    if (w) {
        half = to_half(fit_positive(16, 15, scales, sums, scale_codes));
        half_low = to_half(fit_positive(16, 15, lows, sums, low_codes));
    } else {
        half = to_half(max_scale / 15.f);
        half_low = to_half(max_low / 15.f);
        for (int j = 0; j < 16; j++) {
            scale_codes[j] = (max_scale > 0.f) & nearest(15.f / max_scale * scales[j]);
            low_codes[j] = (max_low > 0.f) & nearest(15.f / max_low * lows[j]);
        }
    }
    for (int j = 0; j < 16; j++) {
        bytes[j] = (scale_codes[j] | low_codes[j] << 4) & 255;
        F d = from_half(half) * number(bytes[j] & 15), m = from_half(half_low) * number(bytes[j] >> 4);
        for (int i = 16 * j; i < 16 * j + 16; i++) {
            I code = within(nearest((x[i] + m) / d), 0, 3);
            codes[i] = choose(d == 0.f, code_with_low(fit[j], x[i], 3), code);
        }
    }
    put_pairs(codes, bytes + 16);
    put_half(half, bytes + 80);
    put_half(half_low, bytes + 82);
}

static void encode_q3_k(const F *x, const F *w, I *codes, I *bytes) {
    Fit fit[16];
    F weights[16], sums[16], scales[16];
    I scale_codes[16], half;
    F square = 2.f * sum_of_squares(WEIGHTS, x) / (float)WEIGHTS;
    for (int j = 0; j < 16; j++) {
        if (w) {
            sums[j] = weigh(16, x + 16 * j, w + 16 * j, square, weights);
            fit[j] = fit_signed(16, 4, x + 16 * j, weights, 0);
            scales[j] = fit[j].scale;
            for (int i = 16 * j; i < 16 * j + 16; i++) codes[i] = code_signed(fit[j], x[i], 4);
        } else {
            scales[j] = fit_by_moves(16, 4, x + 16 * j, codes + 16 * j);
        }
    }
    if (w) {
        Fit whole = fit_signed(16, 32, scales, sums, 1);
        half = to_half(whole.scale);
        for (int j = 0; j < 16; j++) scale_codes[j] = code_signed(whole, scales[j], 32);
    } else {
        F peak = largest(16, scales), inverse = -32.f / peak;
        I some = peak != 0.f;
        half = some & to_half(1.f / inverse);
        for (int j = 0; j < 16; j++)
            scale_codes[j] = some & (within(nearest(inverse * scales[j]) << 24 >> 24, -32, 31) + 32);
    }
    for (int j = 0; j < 4; j++) {
        const I *c = scale_codes + j;
        bytes[96 + j] = (c[0] & 15) | (c[8] & 15) << 4;
        bytes[100 + j] = (c[4] & 15) | (c[12] & 15) << 4;
        bytes[104 + j] = c[0] >> 4 | c[4] >> 4 << 2 | c[8] >> 4 << 4 | c[12] >> 4 << 6;
    }
    for (int j = 0; j < 16; j++) {
        F d = from_half(half) * number(scale_codes[j] - 32);
        for (int i = 16 * j; i < 16 * j + 16; i++)
            codes[i] = choose(d == 0.f, codes[i], within(nearest(x[i] / d), -4, 3) + 4);
    }
    for (int i = 0; i < 32; i++) {
        bytes[i] = every(0);
        for (int j = 0; j < 8; j++) bytes[i] |= codes[32 * j + i] >> 2 << j;
    }
    put_pairs(codes, bytes + 32);
    put_half(half, bytes + 108);
}

/* Q4_K and Q5_K: eight parts of 32, scales and low ends in 6 bits. */
INLINE void encode_q45_k(int top, const F *x, const F *w, I *codes, I *bytes) {
    Fit fit[8];
    F weights[32], sums[8], scales[8], lows[8], max_scale = all(0), max_low = all(0);
    I scale_codes[8], low_codes[8], half, half_low, *packed = bytes + 4;
    F square = 2.f * sum_of_squares(WEIGHTS, x) / (float)WEIGHTS;
    Search plain = top == 15 ? (Search){15, 20, -1.f, .1f, 0} : (Search){31, 15, -.5f, .1f, 0};
    for (int j = 0; j < 8; j++) {
        const F *part = x + 32 * j;
        if (w) {
            sums[j] = weigh(32, part, w + 32 * j, square, weights);
        } else {
            F mean = root(sum_of_squares(32, part) / 32.f);
            for (int i = 0; i < 32; i++) weights[i] = mean + magnitude(part[i]);
        }
        fit[j] = fit_with_low(32, w ? (Search){top, 36, -.9f, .05f, 0} : plain, part, weights);
        scales[j] = fit[j].scale;
        lows[j] = -fit[j].low;
        max_scale = where(scales[j] > max_scale, scales[j], max_scale);
        max_low = where(lows[j] > max_low, lows[j], max_low);
    }
    if (w) {
        half = to_half(fit_positive(8, 63, scales, sums, scale_codes));
        half_low = to_half(fit_positive(8, 63, lows, sums, low_codes));
    } else {
        half = to_half(max_scale / 63.f);
        half_low = to_half(max_low / 63.f);
        F inverse_scale = where(max_scale > 0.f, 63.f / max_scale, all(0));
        F inverse_low = where(max_low > 0.f, 63.f / max_low, all(0));
        for (int j = 0; j < 8; j++) {
            scale_codes[j] = nearest(inverse_scale * scales[j]) & 255;
            low_codes[j] = nearest(inverse_low * lows[j]) & 255;
        }
    }
    for (int j = 0; j < 8; j++) {
        I scale = scale_codes[j], low = low_codes[j];
        if (!w || top == 31) { /* ggml's Q4_K with importance leaves this out */
            scale = at_most(scale, 63);
            low = at_most(low, 63);
        }
        if (j < 4) {
            packed[j] = scale;
            packed[j + 4] = low;
        } else {
            packed[j + 4] = (scale & 15) | (low & 15) << 4;
            packed[j - 4] |= scale >> 4 << 6;
            packed[j] |= low >> 4 << 6;
        }
    }
    put_half(half, bytes);
    put_half(half_low, bytes + 2);
    for (int j = 0; j < 8; j++) {
        I scale = packed[j] & 63, low = packed[j + 4] & 63;
        if (j >= 4) {
            scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6 & 3) << 4;
            low = (packed[j + 4] >> 4) | (packed[j] >> 6 & 3) << 4;
        }
        F d = from_half(half) * number(scale), m = from_half(half_low) * number(low);
        for (int i = 32 * j; i < 32 * j + 32; i++) {
            I code = within(nearest((x[i] + m) / d), 0, top);
            codes[i] = choose(d == 0.f, code_with_low(fit[j], x[i], top), code);
        }
    }
    I *high = bytes + 16, *nibbles = top == 31 ? high + 32 : high;
    for (int i = 0; i < 32; i++) {
        for (int j = 0; j < 4; j++) nibbles[32 * j + i] = (codes[64 * j + i] & 15) | (codes[64 * j + i + 32] & 15) << 4;
        if (top == 31) {
            high[i] = every(0);
            for (int j = 0; j < 8; j++) high[i] |= codes[32 * j + i] >> 4 << j;
        }
    }
}

static void encode_q4_k(const F *x, const F *w, I *codes, I *bytes) {
    encode_q45_k(15, x, w, codes, bytes);
}

static void encode_q5_k(const F *x, const F *w, I *codes, I *bytes) {
    encode_q45_k(31, x, w, codes, bytes);
}

static void encode_q6_k(const F *x, const F *w, I *codes, I *bytes) {
    Fit fit[16];
    F squares[16], scales[16];
    for (int j = 0; j < 16; j++) {
        for (int i = 0; i < 16; i++) squares[i] = x[16 * j + i] * x[16 * j + i];
        fit[j] = fit_signed(16, 32, x + 16 * j, w ? w + 16 * j : squares, 0);
        scales[j] = fit[j].scale;
    }
    F peak = largest(16, scales), inverse = -128.f / peak;
    I some = ~(magnitude(peak) < TINY), half = some & to_half(1.f / inverse);
    for (int j = 0; j < 16; j++) {
        I scale = some & (at_most(nearest(inverse * scales[j]), 127) << 24 >> 24);
        F d = from_half(half) * number(scale);
        for (int i = 16 * j; i < 16 * j + 16; i++) {
            I code = within(nearest(x[i] / d), -32, 31) + 32;
            codes[i] = some & choose(d == 0.f, code_signed(fit[j], x[i], 32), code);
        }
        bytes[192 + j] = scale;
    }
    for (int part = 0; part < 2; part++) {
        const I *c = codes + 128 * part;
        for (int i = 0; i < 32; i++) {
            bytes[64 * part + i] = (c[i] & 15) | (c[i + 64] & 15) << 4;
            bytes[64 * part + i + 32] = (c[i + 32] & 15) | (c[i + 96] & 15) << 4;
            bytes[128 + 32 * part + i] = c[i] >> 4 | c[i + 32] >> 4 << 2 | c[i + 64] >> 4 << 4 | c[i + 96] >> 4 << 6;
        }
    }
    put_half(half, bytes + 208);
}

/* IQ4_NL and IQ4_XS: parts of 32 in 16 uneven levels. */
INLINE F fit_levels_of_part(const F *x, const F *w, F square) {
    F weights[32];
    if (w)
        weigh(32, x, w, square, weights);
    else
        for (int i = 0; i < 32; i++) weights[i] = x[i] * x[i];
    return fit_levels(x, weights);
}

INLINE void put_levels(const F *x, F inverse, I *bytes) {
    for (int i = 0; i < 16; i++) bytes[i] = level_index(inverse * x[i]) | level_index(inverse * x[i + 16]) << 4;
}

static void encode_iq4_nl(const F *x, const F *w, I *codes, I *bytes) {
    (void)codes;
    F scale = fit_levels_of_part(x, w, sum_of_squares(32, x) * (2.f / 32.f));
    put_half(to_half(scale), bytes);
    put_levels(x, where(scale != 0.f, 1.f / scale, all(0)), bytes + 2);
}

static void encode_iq4_xs(const F *x, const F *w, I *codes, I *bytes) {
    F scales[8], square = sum_of_squares(WEIGHTS, x) * (2.f / (float)WEIGHTS);
    I high = every(0);
    for (int j = 0; j < 8; j++) scales[j] = fit_levels_of_part(x + 32 * j, w ? w + 32 * j : NULL, square);
    F d = -largest(8, scales) / 32.f, inverse = where(d != 0.f, 1.f / d, all(0));
    for (int j = 0; j < 8; j++) {
        I code = within(nearest(inverse * scales[j]), -32, 31);
        F scale = d * number(code);
        put_levels(x + 32 * j, where(scale != 0.f, 1.f / scale, all(0)), bytes + 8 + 16 * j);
        codes[j] = code + 32;
        high |= codes[j] >> 4 << 2 * j;
    }
    put_half(to_half(d), bytes);
    put_half(high, bytes + 2);
    for (int j = 0; j < 4; j++) bytes[4 + j] = (codes[2 * j] & 15) | (codes[2 * j + 1] & 15) << 4;
}

typedef void Encode(const F *x, const F *w, I *codes, I *bytes);

static const struct {
    int32_t type; /* ggml's number */
    int weights, nbytes;
    Encode *encode;
} KINDS[] = {
    {10, 256, 84, encode_q2_k},
    {11, 256, 110, encode_q3_k},
    {12, 256, 144, encode_q4_k},
    {13, 256, 176, encode_q5_k},
    {14, 256, 210, encode_q6_k},
    {20, 32, 18, encode_iq4_nl},
    {23, 256, 136, encode_iq4_xs},
};

/* Give lane k block first + k; past the last block the lanes repeat it. */
static void gather(const float *rows, int64_t first, int64_t count, int64_t period, int weights, F *x) {
    for (int k = 0; k < LANES; k++) {
        int64_t block = first + k < count ? first + k : count - 1;
        const float *from = rows + block % period * weights;
        float *to = (float *)x + k;
        for (int i = 0; i < weights; i++) to[i * LANES] = from[i];
    }
}

static void scatter(const I *bytes, int nbytes, int lanes, uint8_t *blocks) {
    I words[WEIGHTS / 4];
    int whole = nbytes / 4;
    for (int i = 0; i < whole; i++) {
        const I *b = bytes + 4 * i;
        words[i] = (b[0] & 255) | (b[1] & 255) << 8 | (b[2] & 255) << 16 | b[3] << 24;
    }
    for (int k = 0; k < lanes; k++) {
        uint8_t *to = blocks + (int64_t)k * nbytes;
        for (int i = 0; i < whole; i++) memcpy(to + 4 * i, (int32_t *)(words + i) + k, 4);
        for (int i = 4 * whole; i < nbytes; i++) to[i] = (uint8_t)bytes[i][k];
    }
}

/* Quantize rows into blocks of a ggml type; give the bytes written, or 0 where ggml has to do it. */
int64_t amalia_quantize_rows(int32_t type, const float *rows, void *blocks, int64_t row_count, int64_t columns,
                             const float *importance) {
    size_t kind = 0, kinds = sizeof KINDS / sizeof *KINDS;
    while (kind < kinds && KINDS[kind].type != type) kind++;
    if (kind == kinds || columns % KINDS[kind].weights) return 0;
    Tile *tile = aligned_alloc(sizeof(F), sizeof(Tile)); /* too much for the stack of some threads */
    if (!tile) return 0;
    int weights = KINDS[kind].weights, nbytes = KINDS[kind].nbytes;
    int64_t count = row_count * columns / weights;
    for (int64_t first = 0; first < count; first += LANES) {
        int lanes = count - first < LANES ? (int)(count - first) : LANES;
        gather(rows, first, count, count, weights, tile->x);
        if (importance) gather(importance, first, count, columns / weights, weights, tile->w);
        KINDS[kind].encode(tile->x, importance ? tile->w : NULL, tile->codes, tile->bytes);
        scatter(tile->bytes, nbytes, lanes, (uint8_t *)blocks + first * nbytes);
    }
    free(tile);
    return count * nbytes;
}
