/* SPDX-License-Identifier: MIT */
/*
 * MC146818 real-time clock over the host's UTC clock, and the CMOS bytes a PC's firmware leaves: memory sizes, century. No alarm and no periodic
 * interrupt: the flags in register C stay clear. Source: MC146818A data sheet, "Registers". Caller and lock: see rtc.h.
 */
#include <string.h>

#include "vmm/rtc.h"

enum { REG_A = 10, REG_B = 11, REG_C = 12, REG_D = 13 };
enum { A_UIP = 0x80, B_SET = 0x80, B_BINARY = 0x04, B_24H = 0x02, D_VALID = 0x80 };

#define RTC_UIP_NS 244000 /* the update is announced this long before the second changes */
#define RTC_LATCH_NS 500000000ll

static void rtc_set16(struct rtc *rtc, unsigned reg, uint64_t value)
{
    if (value > 0xffff)
        value = 0xffff;
    rtc->cmos[reg] = (uint8_t)value;
    rtc->cmos[reg + 1] = (uint8_t)(value >> 8);
}

void rtc_init(struct rtc *rtc, uint64_t mem_bytes)
{
    uint64_t low = mem_bytes < 0xc0000000ull ? mem_bytes : 0xc0000000ull;
    uint64_t high_64k = (mem_bytes - low) >> 16;

    memset(rtc, 0, sizeof(*rtc));
    rtc->cmos[REG_A] = 0x26;
    rtc->cmos[REG_B] = B_24H;
    rtc_set16(rtc, 0x15, 640);
    rtc_set16(rtc, 0x17, low > 0x100000 ? (low - 0x100000) >> 10 : 0);
    rtc_set16(rtc, 0x30, low > 0x100000 ? (low - 0x100000) >> 10 : 0);
    rtc_set16(rtc, 0x34, low > 0x1000000 ? (low - 0x1000000) >> 16 : 0);
    rtc_set16(rtc, 0x5b, high_64k & 0xffff);
    rtc->cmos[0x5d] = (uint8_t)(high_64k >> 16);
}

static int64_t rtc_now(struct rtc *rtc, struct tm *tm)
{
    struct timespec ts;
    time_t seconds;

    clock_gettime(CLOCK_REALTIME, &ts);
    seconds = ts.tv_sec + rtc->offset_s;
    gmtime_r(&seconds, tm);
    return ts.tv_nsec;
}

static int64_t rtc_monotonic_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* A slow reader sees one moment, not seconds of one minute and minutes of the next. */
static const struct tm *rtc_latched(struct rtc *rtc)
{
    int64_t now = rtc_monotonic_ns();

    if (rtc->cmos[REG_B] & B_SET)
        return &rtc->set;
    if (rtc->latch_ns == 0 || now - rtc->latch_ns > RTC_LATCH_NS) {
        rtc_now(rtc, &rtc->latch);
        rtc->latch_ns = now;
    }
    return &rtc->latch;
}

static uint8_t rtc_encode(const struct rtc *rtc, int value)
{
    return (uint8_t)(rtc->cmos[REG_B] & B_BINARY ? value : (value / 10 % 10) << 4 | value % 10);
}

static int rtc_decode(const struct rtc *rtc, uint8_t value)
{
    return rtc->cmos[REG_B] & B_BINARY ? value : (value >> 4) * 10 + (value & 15);
}

static uint8_t rtc_encode_hour(const struct rtc *rtc, int hour)
{
    if (rtc->cmos[REG_B] & B_24H)
        return rtc_encode(rtc, hour);
    return rtc_encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}

static int rtc_decode_hour(const struct rtc *rtc, uint8_t value)
{
    int hour = rtc_decode(rtc, value & 0x7f);

    if (rtc->cmos[REG_B] & B_24H)
        return rtc_decode(rtc, value);
    return hour % 12 + (value & 0x80 ? 12 : 0);
}

static uint8_t rtc_read(struct rtc *rtc, unsigned reg)
{
    struct tm tm;

    switch (reg) {
    case 0:
        return rtc_encode(rtc, rtc_latched(rtc)->tm_sec);
    case 2:
        return rtc_encode(rtc, rtc_latched(rtc)->tm_min);
    case 4:
        return rtc_encode_hour(rtc, rtc_latched(rtc)->tm_hour);
    case 6:
        return rtc_encode(rtc, rtc_latched(rtc)->tm_wday + 1);
    case 7:
        return rtc_encode(rtc, rtc_latched(rtc)->tm_mday);
    case 8:
        return rtc_encode(rtc, rtc_latched(rtc)->tm_mon + 1);
    case 9:
        return rtc_encode(rtc, rtc_latched(rtc)->tm_year % 100);
    case RTC_CENTURY:
        return rtc_encode(rtc, (rtc_latched(rtc)->tm_year + 1900) / 100);
    case REG_A:
        rtc->latch_ns = 0;
        if (!(rtc->cmos[REG_B] & B_SET) && rtc_now(rtc, &tm) > 1000000000 - RTC_UIP_NS)
            return rtc->cmos[REG_A] | A_UIP;
        return rtc->cmos[REG_A];
    case REG_C:
        return 0;
    case REG_D:
        return D_VALID;
    default:
        return rtc->cmos[reg];
    }
}

static bool rtc_set_field(struct rtc *rtc, struct tm *tm, unsigned reg, uint8_t value)
{
    int full_year = tm->tm_year + 1900;

    switch (reg) {
    case 0:
        tm->tm_sec = rtc_decode(rtc, value);
        return true;
    case 2:
        tm->tm_min = rtc_decode(rtc, value);
        return true;
    case 4:
        tm->tm_hour = rtc_decode_hour(rtc, value);
        return true;
    case 6:
        return true; /* the weekday follows from the date */
    case 7:
        tm->tm_mday = rtc_decode(rtc, value);
        return true;
    case 8:
        tm->tm_mon = rtc_decode(rtc, value) - 1;
        return true;
    case 9:
        tm->tm_year = full_year / 100 * 100 + rtc_decode(rtc, value) - 1900;
        return true;
    case RTC_CENTURY:
        tm->tm_year = rtc_decode(rtc, value) * 100 + full_year % 100 - 1900;
        return true;
    default:
        return false;
    }
}

static void rtc_commit(struct rtc *rtc, struct tm *tm)
{
    struct tm normal = *tm;
    time_t seconds = timegm(&normal);

    rtc->offset_s = (int64_t)seconds - time(NULL);
    rtc->latch_ns = 0;
}

static void rtc_write(struct rtc *rtc, unsigned reg, uint8_t value)
{
    bool was_set = rtc->cmos[REG_B] & B_SET;
    struct tm tm;

    if (reg == REG_B && !was_set && (value & B_SET))
        rtc_now(rtc, &rtc->set);
    if (reg == REG_B && was_set && !(value & B_SET))
        rtc_commit(rtc, &rtc->set);
    if (reg == REG_C || reg == REG_D)
        return;
    if (was_set && rtc_set_field(rtc, &rtc->set, reg, value))
        return;
    rtc_now(rtc, &tm);
    if (reg != REG_B && rtc_set_field(rtc, &tm, reg, value)) {
        rtc_commit(rtc, &tm);
        return;
    }
    rtc->cmos[reg] = reg == REG_A ? value & 0x7f : value;
}

void rtc_access(void *device, uint64_t offset, unsigned bytes, bool is_write, uint64_t *value)
{
    struct rtc *rtc = device;

    (void)bytes;
    if (offset == 0) {
        if (is_write)
            rtc->index = *value & 0x7f; /* bit 7 is the NMI mask, not the clock's */
        else
            *value = rtc->index;
    } else if (is_write) {
        rtc_write(rtc, rtc->index, (uint8_t)*value);
    } else {
        *value = rtc_read(rtc, rtc->index);
    }
}
