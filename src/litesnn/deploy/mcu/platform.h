/* What the self-test needs of the machine that it runs on. One platform_*.c is linked. */
#ifndef PLATFORM_H
#define PLATFORM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void platform_print(const char *text);

/* Instructions since the start, or 0 where nothing counts them. */
uint64_t platform_instructions(void);

/* Fill the unused stack with a pattern; then, the most bytes of stack that were in use since. 0 where unknown. */
void platform_paint_stack(void);
uint32_t platform_stack_used(void);

#ifdef __cplusplus
}
#endif

#endif
