/* Runs an engine image on inputs, for builds that Python cannot load: other machines, sanitizers.
 *
 *     engine_runner KERNEL METHOD THREADS IMAGE INPUTS COUNT SIZES OUT
 *
 * SIZES: bytes of the logits and then of each population's spikes, separated by commas. OUT gets them one after another. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "litesnn.h"

#define MAX_POPULATIONS 64

static void fail(const char *what)
{
    fprintf(stderr, "engine_runner: %s\n", what);
    exit(1);
}

static void *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    void *data;
    if (!file || fseek(file, 0, SEEK_END))
        fail(path);
    *size = (size_t)ftell(file);
    rewind(file);
    data = malloc(*size + 1);
    if (!data || fread(data, 1, *size, file) != *size)
        fail(path);
    fclose(file);
    return data;
}

int main(int argc, char **argv)
{
    char message[256];
    size_t image_size, input_size, sizes[MAX_POPULATIONS + 1] = {0};
    uint8_t *parts[MAX_POPULATIONS + 1] = {0};
    void *image, *inputs;
    lsnn_engine *engine;
    char *next;
    FILE *out;
    int n = 0, i, status;
    if (argc != 9)
        fail("expected eight arguments");
    image = read_file(argv[4], &image_size);
    inputs = read_file(argv[5], &input_size);
    for (next = argv[7]; n <= MAX_POPULATIONS && *next; n++) {
        sizes[n] = strtoul(next, &next, 10);
        parts[n] = malloc(sizes[n] + 1);
        next += *next == ',';
    }
    status = lsnn_load(&engine, image, image_size, argv[1], atoi(argv[2]), atoi(argv[3]), message, sizeof message);
    if (status)
        fail(message);
    free(image);
    status = lsnn_run(engine, inputs, strtoul(argv[6], NULL, 10), (float *)(void *)parts[0], parts + 1);
    if (status)
        fail("lsnn_run failed");
    lsnn_free(engine);
    out = fopen(argv[8], "wb");
    if (!out)
        fail(argv[8]);
    for (i = 0; i < n; i++) {
        fwrite(parts[i], 1, sizes[i], out);
        free(parts[i]);
    }
    free(inputs);
    return fclose(out) != 0;
}
