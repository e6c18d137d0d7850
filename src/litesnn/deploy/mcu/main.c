/* The self-test: golden inputs must give exactly the golden logits and spikes. Exit code 0 if they do.
 *
 * It prints lines of "word number" that litesnn reads: how many results were wrong, the instructions of one inference and
 * of three for every golden input, and the most stack that was in use. Between one inference and three everything but two
 * inferences is the same: calls, the loop, the reading of the counter.
 */
#include <string.h>

#include "golden.h"
#include "platform.h"
#include "snn.h"

#if !SNN_TRACE
#error "the self-test looks at spikes: compile everything with -DSNN_TRACE=1, as the Makefile does"
#endif

static snn_logit logits[SNN_TIMESTEPS * SNN_CLASSES];
static uint32_t checksums[SNN_POPULATIONS];

static uint32_t crc32_byte(uint32_t crc, uint32_t byte) {
    int bit;
    crc ^= byte;
    for (bit = 0; bit < 8; bit++) {
        crc = crc & 1u ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
    }
    return crc;
}

static void watch(int population) {
    const struct golden_shape *shape = &golden_shapes[population];
    uint32_t crc = 0xFFFFFFFFu;
    int t, c, y, x;
    for (t = 0; t < SNN_TIMESTEPS; t++) {
        for (c = 0; c < shape->channels; c++) {
            for (y = 0; y < shape->height; y++) {
                for (x = 0; x < shape->width; x++) {
                    crc = crc32_byte(crc, (uint32_t)snn_spike(population, t, c, y, x));
                }
            }
        }
    }
    checksums[population] = ~crc;
}

static void print_number(const char *name, uint64_t value) {
    char text[24];
    char *digit = text + sizeof text;
    *--digit = 0;
    *--digit = '\n';
    do {
        *--digit = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    platform_print(name);
    platform_print(" ");
    platform_print(digit);
}

static uint64_t count_instructions(const snn_input *input, int repeats) {
    uint64_t start = platform_instructions();
    for (; repeats > 0; repeats--) {
        snn_run(input, logits);
    }
    return platform_instructions() - start;
}

int main(void) {
    uint64_t once = 0;
    uint64_t thrice = 0;
    uint32_t stack = 0;
    int wrong_logits = 0;
    int wrong_spikes = 0;
    int i;
    platform_instructions(); /* starts a counter that has to be started */
    for (i = 0; i < golden_count; i++) {
        const snn_input *input = &golden_inputs[i * SNN_INPUTS];
        uint32_t used;
        snn_watch = watch;
        wrong_logits += !snn_run(input, logits) ||
                        memcmp(logits, &golden_logits[i * SNN_TIMESTEPS * SNN_CLASSES], sizeof logits) != 0;
        wrong_spikes += memcmp(checksums, &golden_spikes[i * SNN_POPULATIONS], sizeof checksums) != 0;
        snn_watch = 0;
        platform_paint_stack();
        once += count_instructions(input, 1);
        used = platform_stack_used();
        stack = used > stack ? used : stack;
        thrice += count_instructions(input, 3);
    }
    print_number("inputs", (uint64_t)golden_count);
    print_number("wrong_logits", (uint64_t)wrong_logits);
    print_number("wrong_spikes", (uint64_t)wrong_spikes);
    print_number("instructions_once", once);
    print_number("instructions_thrice", thrice);
    print_number("stack", stack);
    platform_print(wrong_logits || wrong_spikes ? "FAILED\n" : "passed\n");
    return wrong_logits || wrong_spikes;
}
