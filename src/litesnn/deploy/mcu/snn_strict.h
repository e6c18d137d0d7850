/* Every float operation rounds once, as in the reference: a product and a sum must not become one operation, which is
 * gcc's default outside of -std=c99. The Makefile forbids it by -ffp-contract=off, and says so; build systems whose flags
 * are not ours are told here. To be included before everything else. */
#ifndef SNN_STRICT_H
#define SNN_STRICT_H

#ifndef SNN_NO_CONTRACTION
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif
#endif

#endif
