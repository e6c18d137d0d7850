/* The self-test on a computer with an operating system: it prints, and measures neither instructions nor stack. */
#include <stdio.h>

#include "platform.h"

void platform_print(const char *text) {
    fputs(text, stdout);
}

uint64_t platform_instructions(void) {
    return 0;
}

void platform_paint_stack(void) {
}

uint32_t platform_stack_used(void) {
    return 0;
}
