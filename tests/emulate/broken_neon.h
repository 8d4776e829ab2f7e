/* SPDX-License-Identifier: MIT
 *
 * Negative control: put in front of the ARM panel kernels it makes their multiply-adds round twice,
 * an error in the last bit of some outputs.  The kernel tests must then fail.
 */
#ifndef FG_TESTS_EMULATE_BROKEN_NEON_H
#define FG_TESTS_EMULATE_BROKEN_NEON_H

#if defined(__aarch64__)
#include <arm_neon.h>

#define vfmaq_n_f32(a, b, c) vaddq_f32(a, vmulq_n_f32(b, c))
#define vfmaq_f32(a, b, c)   vaddq_f32(a, vmulq_f32(b, c))
#endif

#endif
