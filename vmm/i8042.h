/* SPDX-License-Identifier: MIT */
/*
 * Keyboard controller without a keyboard: its self test, the A20 gate and above all the reset line. Device lock held by every caller.
 */
#ifndef VITRINE_VMM_I8042_H
#define VITRINE_VMM_I8042_H

#include "vmm/iobus.h"
#include "vmm/line.h"

#define I8042_PORT_DATA 0x60
#define I8042_PORT_COMMAND 0x64
#define I8042_PORT_FAST 0x92

struct i8042 {
    const struct line_ops *line;
    uint8_t command;      /* waiting for its data byte, or 0 */
    uint8_t command_byte; /* controller RAM byte 0 */
    uint8_t out, fast;
    bool has_out;
};

void i8042_init(struct i8042 *kbd, const struct line_ops *line);
iobus_access_fn i8042_data_access, i8042_command_access, i8042_fast_access;

#endif
