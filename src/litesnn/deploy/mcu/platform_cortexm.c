/* Bare-metal Cortex-M: start-up, vector table, semihosting, and SysTick as a counter of instructions.
 *
 * Under qemu with -icount shift=0 an instruction takes one nanosecond of virtual time, and SysTick counts at
 * SNN_SYSTICK_HZ: so one tick is 10^9 / SNN_SYSTICK_HZ instructions. On a real chip the same counter counts cycles.
 */
#include "platform.h"

#include "platform_bare.h"

#define SYSTICK_CONTROL (*(volatile uint32_t *)0xE000E010u)
#define SYSTICK_RELOAD (*(volatile uint32_t *)0xE000E014u)
#define SYSTICK_VALUE (*(volatile uint32_t *)0xE000E018u)
#define ICSR (*(volatile uint32_t *)0xE000ED04u)
#define ICSR_SYSTICK_PENDING (1u << 26)
#define CPACR (*(volatile uint32_t *)0xE000ED88u)
#define SYSTICK_PERIOD 0x1000000u

enum { SYS_WRITE0 = 4, SYS_EXIT = 0x18 };
enum { STOPPED_BY_EXIT = 0x20026, STOPPED_BY_ERROR = 0x20023 };

static volatile uint32_t systick_wraps;

static void semihosting(uint32_t operation, uintptr_t argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register uintptr_t r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

void platform_print(const char *text) {
    semihosting(SYS_WRITE0, (uintptr_t)text);
}

uint64_t platform_instructions(void) {
    uint32_t wraps, value;
    if (!SYSTICK_CONTROL) {
        SYSTICK_RELOAD = SYSTICK_PERIOD - 1;
        SYSTICK_VALUE = 0;
        SYSTICK_CONTROL = 7; /* core clock, interrupt when it wraps, on */
    }
    do {
        wraps = systick_wraps;
        value = SYSTICK_VALUE;
    } while (wraps != systick_wraps || (ICSR & ICSR_SYSTICK_PENDING));
    return ((uint64_t)wraps * SYSTICK_PERIOD + (SYSTICK_PERIOD - 1 - value)) * 1000u / (SNN_SYSTICK_HZ / 1000000u);
}

void platform_paint_stack(void) {
    bare_paint();
}

uint32_t platform_stack_used(void) {
    return bare_used();
}

static void on_fault(void) {
    semihosting(SYS_EXIT, STOPPED_BY_ERROR);
    for (;;) {
    }
}

static void on_systick(void) {
    systick_wraps++;
}

static void on_reset(void) {
#ifdef __ARM_FP
    CPACR |= 0xFu << 20; /* the FPU, before anything uses it */
    __asm__ volatile("dsb\n isb");
#endif
    bare_start();
    semihosting(SYS_EXIT, main() == 0 ? STOPPED_BY_EXIT : STOPPED_BY_ERROR);
    for (;;) {
    }
}

typedef union {
    uint32_t *stack;
    void (*handler)(void);
} vector;

extern const vector vectors[16];
__attribute__((section(".vectors"), used)) const vector vectors[16] = {
    {link_stack},         {.handler = on_reset}, {.handler = on_fault}, {.handler = on_fault},
    {.handler = on_fault}, {.handler = on_fault}, {.handler = on_fault}, {0},
    {0},                  {0},                   {0},                   {.handler = on_fault},
    {.handler = on_fault}, {0},                   {.handler = on_fault}, {.handler = on_systick},
};
