/* Bare-metal RV32: start-up, semihosting, and the counter of retired instructions. */
#include "platform.h"

#include "platform_bare.h"

enum { SYS_WRITE0 = 4, SYS_EXIT = 0x18 };
enum { STOPPED_BY_EXIT = 0x20026, STOPPED_BY_ERROR = 0x20023 };

void platform_boot(void);

/* Operation and argument in a0 and a1; the three instructions that mean semihosting must lie in one page. */
uint32_t platform_semihosting(uint32_t operation, uintptr_t argument);

__asm__(
    ".section .text.platform_semihosting, \"ax\"\n"
    ".option push\n"
    ".option norvc\n"
    ".balign 16\n"
    "platform_semihosting:\n"
    "slli x0, x0, 0x1f\n"
    "ebreak\n"
    "srai x0, x0, 7\n"
    "ret\n"
    ".option pop\n"
    ".text\n");

void platform_print(const char *text) {
    platform_semihosting(SYS_WRITE0, (uintptr_t)text);
}

uint64_t platform_instructions(void) {
    uint32_t high, low, again;
    do {
        __asm__ volatile("csrr %0, minstreth\n csrr %1, minstret\n csrr %2, minstreth"
                         : "=&r"(high), "=&r"(low), "=&r"(again));
    } while (high != again);
    return (uint64_t)high << 32 | low;
}

void platform_paint_stack(void) {
    bare_paint();
}

uint32_t platform_stack_used(void) {
    return bare_used();
}

__attribute__((used)) void platform_boot(void) {
    bare_start();
    platform_semihosting(SYS_EXIT, main() == 0 ? STOPPED_BY_EXIT : STOPPED_BY_ERROR);
    for (;;) {
    }
}

__asm__(
    ".section .vectors, \"ax\"\n"
    ".globl _start\n"
    "_start:\n"
    "la sp, link_stack\n"
    "j platform_boot\n"
    ".text\n");
