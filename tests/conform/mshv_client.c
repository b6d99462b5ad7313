/* SPDX-License-Identifier: MIT */
/* See mshv_client.h. */
#include "tests/conform/mshv_client.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "transport/inproc.h"

int call(int fd, unsigned long request, void *arg)
{
    int r = vitrine_ioctl(fd, request, arg);
    return r < 0 ? -errno : r;
}

unsigned hypercall(int fd, unsigned code, unsigned reps, const void *in, unsigned in_bytes, void *out, unsigned out_bytes, int *error, unsigned *done)
{
    struct hv h = { (uint16_t)code, (uint16_t)reps, (uint16_t)in_bytes, (uint16_t)out_bytes, 0, { 0 }, (uint64_t)(uintptr_t)in, (uint64_t)(uintptr_t)out };
    *error = call(fd, HVCALL, &h);
    if (done)
        *done = h.reps;
    return h.status;
}

unsigned regs_get(int fd, unsigned vp, const uint32_t *name, unsigned n, struct value *out, unsigned *done)
{
    uint8_t in[16 + 4 * 64] = { 0 };
    int error;
    memcpy(in + 8, &vp, 4);
    memcpy(in + 16, name, n * 4);
    return hypercall(fd, 0x50, n, in, 16 + 4 * n, out, 16 * n, &error, done);
}

uint64_t reg_get(int fd, unsigned vp, uint32_t name)
{
    struct value v = { 0 };
    assert_int_equal(regs_get(fd, vp, &name, 1, &v, NULL), 0);
    return v.low;
}

unsigned reg_set_wide(int fd, unsigned vp, uint32_t name, struct value v)
{
    uint8_t in[48] = { 0 };
    int error;
    memcpy(in + 8, &vp, 4);
    memcpy(in + 16, &name, 4);
    memcpy(in + 32, &v, 16);
    unsigned status = hypercall(fd, 0x51, 1, in, sizeof in, NULL, 0, &error, NULL);
    assert_int_equal(error, status == 0 ? 0 : -EINVAL);
    return status;
}

unsigned reg_set(int fd, unsigned vp, uint32_t name, uint64_t low)
{
    return reg_set_wide(fd, vp, name, (struct value){ low, 0 });
}

unsigned property(int fd, unsigned code, uint32_t name, uint64_t *value, int *error)
{
    uint64_t in[3] = { 0, name, *value };
    return hypercall(fd, code, 0, in, code == 0x45 ? 24 : 16, code == 0x45 ? NULL : value, code == 0x45 ? 0 : 8, error, NULL);
}

int map(const struct machine *m, uint64_t gpa, void *at, uint64_t bytes, uint8_t flags)
{
    struct memory r = { bytes, gpa >> 12, (uint64_t)(uintptr_t)at, flags, { 0 } };
    return call(m->pt, SET_MEMORY, &r);
}

uint64_t field(const struct machine *m, unsigned at, unsigned bytes)
{
    uint64_t value = 0;
    memcpy(&value, m->message + at, bytes);
    return value;
}

void machine_open(struct machine *m, uint64_t flags)
{
    uint64_t how[2] = { flags, 0 };
    memset(m, 0, sizeof *m);
    m->dev = vitrine_open("/dev/mshv");
    assert_true(m->dev >= 0);
    m->pt = call(m->dev, CREATE_PARTITION, how);
    assert_true(m->pt >= 0);
    m->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

int vp_create(const struct machine *m, uint32_t index)
{
    return call(m->pt, CREATE_VP, &index);
}

void machine_create(struct machine *m, const void *code, size_t bytes)
{
    machine_open(m, 7);
    assert_int_equal(call(m->pt, INITIALIZE, NULL), 0);
    m->vp[0] = vp_create(m, 0);
    assert_true(m->vp[0] >= 0);
    assert_int_equal(map(m, 0, m->ram, RAM_BYTES, 3), 0);
    memcpy(m->ram + CODE_AT, code, bytes);
    struct value cs = { 0, 0xffffull | 0x9bull << 48 };
    assert_int_equal(reg_set_wide(m->vp[0], 0, R_CS, cs), 0);
    assert_int_equal(reg_set(m->vp[0], 0, R_RIP, CODE_AT), 0);
    assert_int_equal(reg_set(m->vp[0], 0, R_RFLAGS, 2), 0);
}

void machine_close(struct machine *m)
{
    for (unsigned i = 0; i < 2; i++)
        if (m->vp[i])
            vitrine_close(m->vp[i]);
    vitrine_close(m->pt);
    vitrine_close(m->dev);
    munmap(m->ram, RAM_BYTES);
}

int run(struct machine *m)
{
    return call(m->vp[0], RUN, m->message);
}
