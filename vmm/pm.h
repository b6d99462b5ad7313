/* SPDX-License-Identifier: MIT */
/*
 * ACPI fixed power-management registers: where a guest turns itself off. Device lock held by every caller.
 */
#ifndef VITRINE_VMM_PM_H
#define VITRINE_VMM_PM_H

#include "vmm/iobus.h"
#include "vmm/line.h"

#define PM_EVENT_PORT 0x600 /* PM1a_STS, PM1a_EN */
#define PM_CONTROL_PORT 0x604
#define PM_BYTES 8
#define PM_SCI_IRQ 9
#define PM_S5_TYPE 5        /* what \_S5 in the DSDT says */
#define PM_RESET_PORT 0xcf9 /* the reset control register that the FADT names */
#define PM_RESET_VALUE 0x06

struct pm {
    const struct line_ops *line;
    uint16_t enable, control;
    uint8_t reset;
};

void pm_init(struct pm *pm, const struct line_ops *line);
iobus_access_fn pm_access, pm_reset_access;

#endif
