/* SPDX-License-Identifier: MIT */
/*
 * The steal time page: how long this vCPU's thread waited for a host CPU, and whether the vCPU is away, which is asleep in HLT. While it is away other vCPUs
 * ask for a flush of its TLB by a bit in the page instead of an IPI. A vCPU that is out with the client is not away: it may be in the middle of an instruction.
 * Runs on the vCPU's thread or its client's (Linux, Documentation/virt/kvm/x86/msr.rst, cpuid.rst).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chip/chip_priv.h"

#define ADDRESS_MASK (~0x3full)
#define RESERVED_BITS 0x3eull

#define AWAY 1u
#define MUST_FLUSH 2u

struct steal_page {
    uint64_t steal;
    uint32_t version, flags;
    uint8_t away, pad8[3];
    uint32_t pad[11];
};
_Static_assert(sizeof(struct steal_page) == 64, "guest ABI");

/* Time the thread waited for a host CPU, by the kernel's own account; 0 if it keeps none. */
static uint64_t thread_run_delay(void)
{
    char text[96];
    int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = 0;
    char *second = strchr(text, ' ');
    return second ? strtoull(second, NULL, 10) : 0;
}

/* All but `away`, which other vCPUs write too. */
static void steal_renew(struct vcpu *v, struct pv *c, uint64_t now_ns)
{
    gpa_t gpa = c->steal_time & ADDRESS_MASK;
    struct steal_page page;
    uint64_t delay = thread_run_delay();
    pid_t tid = gettid();
    c->steal.ns = now_ns;
    if (vm_read(v->vm, gpa, &page, sizeof(page)))
        return;
    /* Another thread has another account: begin anew, nothing is stolen by the change. */
    if (tid == c->steal.tid && delay > c->steal.run_delay)
        page.steal += delay - c->steal.run_delay;
    c->steal.tid = tid;
    c->steal.run_delay = delay;
    /* The version is odd while the rest is being written: other CPUs read it too. Stores of x86 are seen in order, the fences are for the compiler. */
    page.flags = 0;
    page.version |= 1;
    vm_write(v->vm, gpa + offsetof(struct steal_page, version), &page.version, sizeof(page.version));
    atomic_thread_fence(memory_order_seq_cst);
    vm_write(v->vm, gpa, &page, offsetof(struct steal_page, away));
    atomic_thread_fence(memory_order_seq_cst);
    page.version++;
    vm_write(v->vm, gpa + offsetof(struct steal_page, version), &page.version, sizeof(page.version));
}

bool pv_steal_enter(struct vcpu *v, struct pv *c, uint64_t now_ns)
{
    if (!(c->steal_time & PV_AREA_ENABLED))
        return false;
    int old = 0;
    if (c->steal.is_away) {
        old = vm_exchange(v->vm, (c->steal_time & ADDRESS_MASK) + offsetof(struct steal_page, away), 0);
        c->steal.is_away = false;
    }
    if (now_ns - c->steal.ns >= PV_RENEW_NS)
        steal_renew(v, c, now_ns);
    return old > 0 && (old & MUST_FLUSH);
}

void pv_steal_sleep(struct vcpu *v, struct pv *c)
{
    if (!(c->steal_time & PV_AREA_ENABLED) || c->steal.is_away)
        return;
    vm_exchange(v->vm, (c->steal_time & ADDRESS_MASK) + offsetof(struct steal_page, away), AWAY);
    c->steal.is_away = true;
}

int pv_steal_set(struct vcpu *v, struct pv *c, uint64_t value)
{
    if (value & RESERVED_BITS)
        return -EINVAL;
    c->steal_time = value;
    c->steal.ns = 0;
    c->steal.tid = 0;
    c->steal.is_away = true; /* whatever the page says: a restored one may ask for a flush */
    if (atomic_load(&v->is_running))
        pv_steal_enter(v, c, timer_now_ns());
    return 0;
}
