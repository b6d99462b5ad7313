/* SPDX-License-Identifier: MIT */
/*
 * See i8042.h. Commands with an answer are answered at once; bytes for the keyboard or the mouse go nowhere, as with nothing plugged in.
 */
#include <string.h>

#include "vmm/i8042.h"

enum { STATUS_OUT_FULL = 0x01, STATUS_SYSTEM = 0x04, STATUS_UNLOCKED = 0x10 };
enum { FAST_RESET = 0x01, FAST_A20 = 0x02 };

void i8042_init(struct i8042 *kbd, const struct line_ops *line)
{
    memset(kbd, 0, sizeof(*kbd));
    kbd->line = line;
    kbd->command_byte = 0x70; /* both ports disabled, system flag clear until the self test */
    kbd->fast = FAST_A20;
}

static void i8042_answer(struct i8042 *kbd, uint8_t byte)
{
    kbd->out = byte;
    kbd->has_out = true;
}

void i8042_data_access(void *device, uint64_t offset, unsigned bytes, bool is_write, uint64_t *value)
{
    struct i8042 *kbd = device;

    (void)offset, (void)bytes;
    if (!is_write) {
        *value = kbd->out;
        kbd->has_out = false;
        return;
    }
    if (kbd->command == 0x60)
        kbd->command_byte = (uint8_t)*value;
    else if (kbd->command == 0xd1 && !(*value & 1))
        kbd->line->reset(kbd->line->machine);
    else if (kbd->command == 0xd2 || kbd->command == 0xd3)
        i8042_answer(kbd, (uint8_t)*value);
    kbd->command = 0;
}

static void i8042_command(struct i8042 *kbd, uint8_t command)
{
    kbd->command = 0;
    switch (command) {
    case 0x20:
        i8042_answer(kbd, kbd->command_byte);
        break;
    case 0xaa:
        i8042_answer(kbd, 0x55);
        break;
    case 0xa9: /* test of the mouse port: "clock line stuck", so nobody looks for a mouse */
        i8042_answer(kbd, 0x01);
        break;
    case 0xab:
        i8042_answer(kbd, 0x00);
        break;
    case 0xd0:
        i8042_answer(kbd, 0x03); /* A20 on, reset line idle */
        break;
    case 0x60:
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xd4:
        kbd->command = command;
        break;
    default:
        if (command >= 0xf0 && !(command & 1))
            kbd->line->reset(kbd->line->machine); /* pulse of output bit 0, the CPU's reset */
        break;
    }
}

void i8042_command_access(void *device, uint64_t offset, unsigned bytes, bool is_write, uint64_t *value)
{
    struct i8042 *kbd = device;

    (void)offset, (void)bytes;
    if (is_write)
        i8042_command(kbd, (uint8_t)*value);
    else
        *value = STATUS_UNLOCKED | STATUS_SYSTEM | (kbd->has_out ? STATUS_OUT_FULL : 0);
}

void i8042_fast_access(void *device, uint64_t offset, unsigned bytes, bool is_write, uint64_t *value)
{
    struct i8042 *kbd = device;

    (void)offset, (void)bytes;
    if (!is_write) {
        *value = kbd->fast;
        return;
    }
    if ((*value & FAST_RESET) && !(kbd->fast & FAST_RESET))
        kbd->line->reset(kbd->line->machine);
    kbd->fast = *value & FAST_A20;
}
