/* What the bare-metal platforms share: memory set up from the linker script's symbols, and the painted stack. */
#ifndef PLATFORM_BARE_H
#define PLATFORM_BARE_H

#include <stdint.h>

extern uint32_t link_data_start[], link_data_end[], link_data_load[], link_bss_start[], link_bss_end[], link_stack[];

int main(void);

#define PAINT 0xA5A5A5A5u
#define BELOW 256u /* bytes below the caller's frame that the painter itself may use */

/* Copy initial values, clear the rest. */
static inline void bare_start(void) {
    const volatile uint32_t *from = link_data_load;
    volatile uint32_t *to;
    for (to = link_data_start; to < link_data_end; to++) {
        *to = *from++;
    }
    for (to = link_bss_start; to < link_bss_end; to++) {
        *to = 0;
    }
}

static inline void bare_paint(void) {
    volatile uint32_t here = 0;
    volatile uint32_t *word = link_bss_end;
    uintptr_t top = (uintptr_t)&here - BELOW;
    while ((uintptr_t)word < top) {
        *word++ = PAINT;
    }
}

static inline uint32_t bare_used(void) {
    const volatile uint32_t *word = link_bss_end;
    while (word < link_stack && *word == PAINT) {
        word++;
    }
    return (uint32_t)((uintptr_t)link_stack - (uintptr_t)word);
}

#endif
