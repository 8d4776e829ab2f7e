/* SPDX-License-Identifier: MIT
 *
 * For tests of what runs on a card: the driver that is none (tests/emulate/cuda), loaded into a
 * process of the test's own.
 */
#ifndef FG_TESTS_DEVICE_FAKE_CARD_H
#define FG_TESTS_DEVICE_FAKE_CARD_H

#include <stdbool.h>

/* Runs it in a new process that has the driver, with these settings (fake_driver.h); a check that
 * fails there fails the running test.  Returns the signal that the process ended with, or 0.
 * Without the driver the test is skipped, once it has failed nothing is run.
 *
 * A process whose threads are OpenMP's cannot go on in a child: whoever wants more than one thread
 * there does what uses threads before, such as conversions, in one that has no driver (settings
 * NULL). */
int fake_card_run(const char *settings, void (*run)(void));

/* Where the driver is, or would be. */
const char *fake_card_driver(void);

/* Kernels are in this program; else fake_card_run puts some that the driver takes here: */
bool fake_card_has_kernels(void);
const char *fake_card_image(void);

#endif
