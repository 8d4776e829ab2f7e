/* SPDX-License-Identifier: MIT
 *
 * The card that the tests run on.
 */
#ifndef FG_TESTS_CUDA_CARD_H
#define FG_TESTS_CUDA_CARD_H

#include "src/device/driver.h"

/* NULL unless check_on_card(). */
const fg_gpu *check_gpu(void);

#endif
