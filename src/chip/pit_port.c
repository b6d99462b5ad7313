/* SPDX-License-Identifier: MIT */
/*
 * Ports of the 8254: data 0x40-42, mode 0x43, and the speaker's gate at 0x61. Byte order, latches and read-back; counting is in pit.c. Binary counting
 * only: the BCD bit is kept but not obeyed. Runs on vCPU threads under pit.lock (Intel 8254 data sheet).
 */
#include <errno.h>
#include <string.h>

#include "chip/chip_priv.h"

enum rw { RW_LATCH, RW_LOW, RW_HIGH, RW_WORD, RW_WORD_HIGH /* second byte of a word */ };

static void pit_latch_count(struct pit_channel_state *c)
{
    if (c->count_latched)
        return;
    c->latched_count = pit_count(c, timer_now_ns());
    c->count_latched = c->rw_mode;
}

static void pit_latch_status(struct pit_channel_state *c)
{
    if (c->status_latched)
        return;
    c->status = (uint8_t)(pit_out(c, timer_now_ns()) << 7 | c->rw_mode << 4 | (c->mode & 7) << 1 | c->bcd);
    c->status_latched = 1;
}

static void pit_read_back(struct pit *p, uint8_t value)
{
    for (unsigned i = 0; i < 3; i++) {
        if (!(value & 2u << i))
            continue;
        if (!(value & 0x20))
            pit_latch_count(&p->state.channels[i]);
        if (!(value & 0x10))
            pit_latch_status(&p->state.channels[i]);
    }
}

static void pit_mode_write(struct pit *p, uint8_t value)
{
    unsigned channel = value >> 6, rw = value >> 4 & 3;
    if (channel == 3) {
        pit_read_back(p, value);
        return;
    }
    struct pit_channel_state *c = &p->state.channels[channel];
    if (rw == RW_LATCH) {
        pit_latch_count(c);
        return;
    }
    c->rw_mode = c->read_state = c->write_state = (uint8_t)rw;
    c->mode = value >> 1 & 7;
    if (c->mode > 5) /* bit 2 of modes 2 and 3 is not decoded */
        c->mode -= 4;
    c->bcd = value & 1;
    c->count_latched = c->status_latched = 0;
}

static void pit_data_write(struct pit *p, unsigned channel, uint8_t value)
{
    struct pit_channel_state *c = &p->state.channels[channel];
    switch (c->write_state) {
    case RW_HIGH:
        pit_load(p, channel, (uint32_t)value << 8);
        break;
    case RW_WORD:
        c->write_latch = value;
        c->write_state = RW_WORD_HIGH;
        break;
    case RW_WORD_HIGH:
        c->write_state = RW_WORD;
        pit_load(p, channel, c->write_latch | (uint32_t)value << 8);
        break;
    default:
        pit_load(p, channel, value);
    }
}

static uint8_t pit_read_latched(struct pit_channel_state *c)
{
    switch (c->count_latched) {
    case RW_HIGH:
        c->count_latched = 0;
        return (uint8_t)(c->latched_count >> 8);
    case RW_WORD:
        c->count_latched = RW_WORD_HIGH;
        return (uint8_t)c->latched_count;
    case RW_WORD_HIGH:
        c->count_latched = 0;
        return (uint8_t)(c->latched_count >> 8);
    default:
        c->count_latched = 0;
        return (uint8_t)c->latched_count;
    }
}

static uint8_t pit_data_read(struct pit *p, unsigned channel)
{
    struct pit_channel_state *c = &p->state.channels[channel];
    if (c->status_latched) {
        c->status_latched = 0;
        return c->status;
    }
    if (c->count_latched)
        return pit_read_latched(c);
    uint16_t count = pit_count(c, timer_now_ns());
    switch (c->read_state) {
    case RW_HIGH:
        return (uint8_t)(count >> 8);
    case RW_WORD:
        c->read_state = RW_WORD_HIGH;
        return (uint8_t)count;
    case RW_WORD_HIGH:
        c->read_state = RW_WORD;
        return (uint8_t)(count >> 8);
    default:
        return (uint8_t)count;
    }
}

static int pit_port_read(struct bus_region *r, struct vcpu *v, uint64_t addr, unsigned bytes, void *data)
{
    struct pit *p = r->owner;
    uint8_t value = 0; /* the mode register cannot be read */
    (void)v;
    pthread_mutex_lock(&p->lock);
    if (addr < 0x43)
        value = pit_data_read(p, (unsigned)addr - 0x40);
    pthread_mutex_unlock(&p->lock);
    memset(data, 0, bytes);
    memcpy(data, &value, 1);
    return 0;
}

static int pit_port_write(struct bus_region *r, struct vcpu *v, uint64_t addr, unsigned bytes, const void *data)
{
    struct pit *p = r->owner;
    uint8_t value;
    (void)v;
    (void)bytes;
    memcpy(&value, data, 1);
    pthread_mutex_lock(&p->lock);
    if (addr == 0x43)
        pit_mode_write(p, value);
    else
        pit_data_write(p, (unsigned)addr - 0x40, value);
    pthread_mutex_unlock(&p->lock);
    return 0;
}

static int speaker_read(struct bus_region *r, struct vcpu *v, uint64_t addr, unsigned bytes, void *data)
{
    struct pit *p = r->owner;
    (void)v;
    (void)addr;
    pthread_mutex_lock(&p->lock);
    const struct pit_channel_state *c = &p->state.channels[2];
    uint64_t now = timer_now_ns();
    /* Bit 4 toggles with the memory refresh, about every 15 us: old code times by it. */
    uint8_t value = (uint8_t)(c->gate | !!(p->state.flags & PIT_FLAG_SPEAKER_ON) << 1 | (now >> 14 & 1) << 4 | pit_out(c, now) << 5);
    pthread_mutex_unlock(&p->lock);
    memset(data, 0, bytes);
    memcpy(data, &value, 1);
    return 0;
}

static int speaker_write(struct bus_region *r, struct vcpu *v, uint64_t addr, unsigned bytes, const void *data)
{
    struct pit *p = r->owner;
    uint8_t value;
    (void)v;
    (void)addr;
    (void)bytes;
    memcpy(&value, data, 1);
    pthread_mutex_lock(&p->lock);
    p->state.flags = (p->state.flags & ~PIT_FLAG_SPEAKER_ON) | (value & 2 ? PIT_FLAG_SPEAKER_ON : 0);
    pit_gate_set(p, 2, value & 1);
    pthread_mutex_unlock(&p->lock);
    return 0;
}

static const struct bus_ops port_ops = { .read = pit_port_read, .write = pit_port_write };
static const struct bus_ops speaker_ops = { .read = speaker_read, .write = speaker_write };

void pit_bus_add(struct pit *p)
{
    p->ports = (struct bus_region){ .addr = 0x40, .bytes = 4, .ops = &port_ops, .owner = p };
    p->speaker = (struct bus_region){ .addr = 0x61, .bytes = 1, .ops = &speaker_ops, .owner = p };
    bus_add(&p->vm->pio, &p->ports);
    if (p->create_flags & PIT_SPEAKER_DUMMY)
        bus_add(&p->vm->pio, &p->speaker);
}

void pit_bus_remove(struct pit *p)
{
    bus_remove(&p->vm->pio, &p->ports);
    if (p->create_flags & PIT_SPEAKER_DUMMY)
        bus_remove(&p->vm->pio, &p->speaker);
}
