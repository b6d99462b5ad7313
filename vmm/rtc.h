/* SPDX-License-Identifier: MIT */
/*
 * MC146818 clock and CMOS memory at ports 0x70 and 0x71. Every call is made with the machine's device lock held.
 */
#ifndef VITRINE_VMM_RTC_H
#define VITRINE_VMM_RTC_H

#include <time.h>

#include "vmm/iobus.h"

#define RTC_PORT 0x70
#define RTC_CENTURY 0x32

struct rtc {
    uint8_t index;
    uint8_t cmos[128];
    int64_t offset_s; /* the guest's clock minus the host's */
    struct tm set;    /* what the guest has written while B_SET holds the clock */
    struct tm latch;  /* one consistent reading, good for half a second */
    int64_t latch_ns;
};

void rtc_init(struct rtc *rtc, uint64_t mem_bytes);
iobus_access_fn rtc_access;

#endif
