/* SPDX-License-Identifier: MIT */
/*
 * See pm.h. No event is ever raised: the status register reads zero and the SCI stays low.
 * Source: ACPI specification, "PM1 Event Grouping", "PM1 Control Registers", "Reset Register".
 */
#include <string.h>

#include "vmm/pm.h"

enum { CNT_SCI_EN = 1, CNT_SLP_TYPE_SHIFT = 10, CNT_SLP_EN = 1 << 13 };

void pm_init(struct pm *pm, const struct line_ops *line)
{
    memset(pm, 0, sizeof(*pm));
    pm->line = line;
    pm->control = CNT_SCI_EN;
}

void pm_access(void *device, uint64_t offset, unsigned bytes, bool is_write, uint64_t *value)
{
    struct pm *pm = device;
    uint64_t regs = (uint64_t)pm->enable << 16 | (uint64_t)pm->control << 32;
    uint64_t mask = (bytes == 8 ? ~0ull : (1ull << bytes * 8) - 1) << offset * 8;

    if (!is_write) {
        *value = regs >> offset * 8;
        return;
    }
    regs = (regs & ~mask) | (*value << offset * 8 & mask);
    pm->enable = (uint16_t)(regs >> 16);
    pm->control = (uint16_t)((regs >> 32 & ~(uint64_t)CNT_SLP_EN) | CNT_SCI_EN); /* SLP_EN is write-only */
    if ((regs >> 32 & CNT_SLP_EN) && (pm->control >> CNT_SLP_TYPE_SHIFT & 7) == PM_S5_TYPE)
        pm->line->power_off(pm->line->machine);
}

void pm_reset_access(void *device, uint64_t offset, unsigned bytes, bool is_write, uint64_t *value)
{
    struct pm *pm = device;

    (void)offset, (void)bytes;
    if (!is_write) {
        *value = pm->reset;
        return;
    }
    pm->reset = *value & 0x0a;
    if (*value & 0x04)
        pm->line->reset(pm->line->machine);
}
