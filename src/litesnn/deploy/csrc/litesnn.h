/* The native engine: runs packed spiking networks on a CPU, bit for bit as litesnn.deploy.reference says.
 *
 * In: an engine image, the flat little-endian form of a packed model that litesnn.deploy.engine_image writes (its layout is
 * in loader.h), and raw inputs. Out: logits, and every spike if asked. An image is untrusted: everything that it says
 * is checked before it is used.
 *
 * An engine is used by one thread at a time; different engines are independent.
 */
#ifndef LITESNN_H
#define LITESNN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define LSNN_API __declspec(dllexport)
#elif defined(__GNUC__)
#define LSNN_API __attribute__((visibility("default")))
#else
#define LSNN_API
#endif

#define LSNN_ABI 1 /* raised whenever a function or struct of this header changes */

enum lsnn_status {
    LSNN_OK = 0,
    LSNN_BAD_IMAGE = 1,  /* the image breaks a rule; the message says which */
    LSNN_NO_MEMORY = 2,
    LSNN_BAD_INPUT = 3,  /* an input number is not finite */
    LSNN_NO_KERNEL = 4   /* the kernel is unknown, or this CPU cannot run it */
};

enum lsnn_method { LSNN_BITSLICED = 0, LSNN_GATHER = 1, LSNN_ANALOG = 2, LSNN_IDENTITY = 3 };

typedef struct lsnn_engine lsnn_engine;

/* How one bundle of synapses is computed, and what that took since the last lsnn_reset_counts. */
typedef struct {
    int32_t population;
    int32_t method;       /* enum lsnn_method */
    uint64_t weight_bytes; /* of its run-time tables */
    uint64_t additions;    /* of one neuron or bit lane each, padding included */
    uint64_t words;        /* the same, counted in machine words or vectors of the kernel */
} lsnn_bundle_info;

LSNN_API int32_t lsnn_abi(void);

/* The name of the n-th kernel that this CPU can run, fastest first; NULL after the last. */
LSNN_API const char *lsnn_kernel_name(int32_t n);

/* Make an engine from `size` bytes of `image`, which may be freed afterwards. `kernel` NULL takes the fastest.
 * `method` -1 chooses for each bundle the cheaper of bit-sliced and gather; LSNN_BITSLICED or LSNN_GATHER forces one.
 * `threads` >= 1. On failure *engine is NULL and `message` holds one line. */
LSNN_API int lsnn_load(lsnn_engine **engine, const void *image, size_t size, const char *kernel, int32_t method,
                       int32_t threads, char *message, size_t message_size);
LSNN_API void lsnn_free(lsnn_engine *engine);

LSNN_API const char *lsnn_kernel(const lsnn_engine *engine);

/* Run `count` inputs [count, C, H, W]: uint8 if the image says that inputs are pixels, else float; or frames of counts
 * uint8 [count, T, C, H, W].
 * logits: float [T, count, classes]. spikes: NULL, or for each population NULL or uint8 [T, count, C, H, W], 0 or 1 or
 * graded ones. */
LSNN_API int lsnn_run(lsnn_engine *engine, const void *inputs, size_t count, float *logits, uint8_t *const *spikes);

/* Bundles in the order of the model, the readout left out. Returns 0, or -1 after the last. */
LSNN_API int lsnn_bundle(const lsnn_engine *engine, int32_t n, lsnn_bundle_info *info);
LSNN_API void lsnn_reset_counts(lsnn_engine *engine);

/* Bytes of all run-time weight tables, and of all working memory. */
LSNN_API uint64_t lsnn_weight_bytes(const lsnn_engine *engine);
LSNN_API uint64_t lsnn_work_bytes(const lsnn_engine *engine);

/* Full adders of one bit lane that this CPU does per second when nothing but registers is touched: the speed limit
 * of the bit-sliced kernel, measured on the spot. 0 if the kernel cannot be run here. */
LSNN_API double lsnn_full_adder_limit(const char *kernel);

#ifdef __cplusplus
}
#endif
#endif
