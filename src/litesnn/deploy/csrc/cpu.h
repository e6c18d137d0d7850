/* Which instruction sets can be used: what the CPU has, and LITESNN_CPU allows. */
#ifndef LSNN_CPU_H
#define LSNN_CPU_H

int lsnn_has_avx2(void);
int lsnn_has_avx512(void);

#endif
