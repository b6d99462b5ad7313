/* SPDX-License-Identifier: MIT */
/*
 * Which pages the guest wrote, by every way there is: bitmaps that the kernel clears, bitmaps that the client clears, rings.
 */
#include "tests/conform/machine_today.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

PAYLOAD(churn);
PAYLOAD(pages);

#define SLOT 1u
#define SLOT_AT 0x80000u
#define SLOT_BYTES 0x46000u /* 70 pages */
#define SLOT_PAGES 70u
#define RING_BYTES 4096u
#define RING_ENTRIES (RING_BYTES / sizeof(struct kvm_dirty_gfn))
#define FULL_AT (RING_ENTRIES - 64) /* the kernel keeps so many back, and more where the CPU logs pages itself */

/* Writes n pages from that page of guest memory on. */
static void touch(struct machine *m, const struct peer *p, unsigned page, unsigned n)
{
    machine_load(m, p, payload_pages, PAYLOAD_BYTES(pages));
    const uint16_t args[] = { (uint16_t)(page << 8), (uint16_t)n };
    memcpy(m->ram + DATA_AT, args, sizeof args);
}

static void enable(struct machine *m, const struct peer *p, uint32_t cap, uint64_t arg)
{
    struct kvm_enable_cap e = { .cap = cap, .args = { arg } };
    CALL(m->vm, KVM_ENABLE_CAP, &e);
}

static void get_log(struct machine *m, const struct peer *p, uint64_t bits[2])
{
    struct kvm_dirty_log log = { .slot = SLOT, .dirty_bitmap = bits };
    bits[0] = bits[1] = 0x5555;
    CALL(m->vm, KVM_GET_DIRTY_LOG, &log);
}

static void clear_log(struct machine *m, const struct peer *p, uint64_t first, uint32_t n, uint64_t *bits)
{
    struct kvm_clear_dirty_log clear = { .slot = SLOT, .num_pages = n, .first_page = first, .dirty_bitmap = bits };
    CALL(m->vm, KVM_CLEAR_DIRTY_LOG, &clear);
}

#define CHECK_LOG(first, second)   \
    do {                           \
        get_log(&m, p, bits);      \
        CHECK_EQ(bits[0], first);  \
        CHECK_EQ(bits[1], second); \
    } while (0)

static uint8_t *slot_create(struct machine *m, const struct peer *p, uint32_t flags)
{
    machine_create(m, p, 0);
    uint8_t *at = pages_of_client(SLOT_BYTES);
    machine_set_slot(m, p, SLOT, flags, SLOT_AT, SLOT_BYTES, at);
    return at;
}

static void log_survives_what_keeps_memory(const struct peer *p)
{
    struct machine m;
    uint64_t bits[2];
    uint8_t *at = slot_create(&m, p, KVM_MEM_LOG_DIRTY_PAGES);
    CHECK_LOG(0, 0);
    touch(&m, p, 0x80 + 63, 3);
    RUN_TO(KVM_EXIT_HLT);
    machine_set_slot(&m, p, SLOT, KVM_MEM_LOG_DIRTY_PAGES, 0x90000, SLOT_BYTES, at); /* moved */
    CHECK_LOG(1ull << 63, 3);
    CHECK_LOG(0, 0);
    touch(&m, p, 0x90 + 69, 1);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_LOG(0, 1u << 5);
    touch(&m, p, 0x90 + 1, 1);
    RUN_TO(KVM_EXIT_HLT);
    machine_set_slot(&m, p, SLOT, 0, 0x90000, SLOT_BYTES, at); /* off and on: forgotten */
    machine_set_slot(&m, p, SLOT, KVM_MEM_LOG_DIRTY_PAGES, 0x90000, SLOT_BYTES, at);
    CHECK_LOG(0, 0);
}

/* A bad pointer loses nothing. */
static void log_bad_pointer(const struct peer *p)
{
    struct machine m;
    uint64_t bits[2];
    slot_create(&m, p, KVM_MEM_LOG_DIRTY_PAGES);
    touch(&m, p, 0x80 + 63, 3);
    RUN_TO(KVM_EXIT_HLT);
    struct kvm_dirty_log lost = { .slot = SLOT, .dirty_bitmap = (void *)8 };
    CHECK_ERRNO(m.vm, KVM_GET_DIRTY_LOG, &lost, EFAULT);
    CHECK_LOG(1ull << 63, 3);
}

static void log_initially_set(const struct peer *p)
{
    struct machine m;
    uint64_t bits[2], some[2] = { ~0ull, ~0ull };
    machine_create(&m, p, 0);
    if (!(NEED(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) & KVM_DIRTY_LOG_INITIALLY_SET))
        conform_skip("logs do not start full");
    struct kvm_enable_cap e = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { KVM_DIRTY_LOG_INITIALLY_SET } };
    CHECK_ERRNO(m.vm, KVM_ENABLE_CAP, &e, EINVAL);
    e.args[0] = 7;
    CHECK_ERRNO(m.vm, KVM_ENABLE_CAP, &e, EINVAL);
    enable(&m, p, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
    uint8_t *at = pages_of_client(SLOT_BYTES);
    machine_set_slot(&m, p, SLOT, 0, SLOT_AT, SLOT_BYTES, at);
    machine_set_slot(&m, p, SLOT, KVM_MEM_LOG_DIRTY_PAGES, SLOT_AT, SLOT_BYTES, at);
    CHECK_LOG(~0ull, 0x3f);
    CHECK_LOG(~0ull, 0x3f); /* until the client clears */
    clear_log(&m, p, 0, 64, some);
    CHECK_LOG(0, 0x3f);
    touch(&m, p, 0x80 + 5, 2);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_LOG(3ull << 5, 0x3f);
    clear_log(&m, p, 64, 6, some);
    CHECK_LOG(3ull << 5, 0);
    touch(&m, p, 0x80 + 5, 2);
    RUN_TO(KVM_EXIT_HLT);
    some[0] = 1ull << 5;
    clear_log(&m, p, 0, SLOT_PAGES, some);
    CHECK_LOG(1ull << 6, 0);
}

static void log_clear_ranges(const struct peer *p)
{
    struct machine m;
    slot_create(&m, p, KVM_MEM_LOG_DIRTY_PAGES);
    NEED(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    enable(&m, p, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
    uint64_t bits[2] = { ~0ull, ~0ull };
    struct kvm_clear_dirty_log c = { .slot = SLOT, .num_pages = 64, .dirty_bitmap = bits };
    static const struct {
        uint32_t slot, n;
        uint64_t first;
        int want;
    } cases[] = {
        { SLOT, 64, 0, 0 },        { SLOT, 70, 0, 0 },         { SLOT, 6, 64, 0 },           { SLOT, 0, 0, 0 },
        { SLOT, 0, 64, 0 },        { SLOT, 63, 0, EINVAL },    { SLOT, 71, 0, EINVAL },      { SLOT, 128, 0, EINVAL },
        { SLOT, 5, 64, EINVAL },   { SLOT, 7, 64, EINVAL },    { SLOT, 64, 64, EINVAL },     { SLOT, 6, 63, EINVAL },
        { SLOT, 64, 128, EINVAL }, { 0, 64, 0, ENOENT },       { 7, 64, 0, ENOENT },         { 7, 64, 1, EINVAL },
        { 0x7fff, 64, 0, EINVAL }, { 0x20001, 64, 0, EINVAL }, { SLOT, 64, ~63ull, EINVAL },
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        c.slot = cases[i].slot;
        c.num_pages = cases[i].n;
        c.first_page = cases[i].first;
        int got = p->port->ioctl(m.vm, KVM_CLEAR_DIRTY_LOG, &c) ? errno : 0;
        if (got != cases[i].want)
            conform_fail(__FILE__, __LINE__, "case %u: errno %d, want %d", i, got, cases[i].want);
    }
    touch(&m, p, 0x80, 2);
    RUN_TO(KVM_EXIT_HLT);
    c = (struct kvm_clear_dirty_log){ .slot = SLOT, .num_pages = 64, .dirty_bitmap = (void *)8 };
    CHECK_ERRNO(m.vm, KVM_CLEAR_DIRTY_LOG, &c, EFAULT);
    CHECK_ERRNO(m.vm, KVM_CLEAR_DIRTY_LOG, 8, EFAULT);
    CHECK_ERRNO(m.vm, KVM_GET_DIRTY_LOG, 8, EFAULT);
    struct kvm_dirty_log log = { .slot = SLOT, .dirty_bitmap = bits };
    CALL(m.vm, KVM_GET_DIRTY_LOG, &log);
    CHECK_EQ(bits[0], 3);
}

/* ---- rings ----------------------------------------------------------------------------------------------------------------------------------- */

static void ring_set_up(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    int most = NEED(KVM_CAP_DIRTY_LOG_RING);
    CHECK_EQ(p->port->ioctl(m.dev, KVM_CHECK_EXTENSION, (void *)KVM_CAP_DIRTY_LOG_RING_ACQ_REL), most);
    CHECK_ERRNO(m.vm, KVM_RESET_DIRTY_RINGS, 0, EINVAL);
    int vm = CALL(m.dev, KVM_CREATE_VM, 0);
    struct kvm_enable_cap e = { .cap = KVM_CAP_DIRTY_LOG_RING, .args = { 0 } };
    CHECK_ERRNO(vm, KVM_ENABLE_CAP, &e, EINVAL);
    e.args[0] = 2048;
    CHECK_ERRNO(vm, KVM_ENABLE_CAP, &e, EINVAL);
    e.args[0] = 4096 + 16;
    CHECK_ERRNO(vm, KVM_ENABLE_CAP, &e, EINVAL);
    e.args[0] = 2 * (uint64_t)most;
    CHECK_ERRNO(vm, KVM_ENABLE_CAP, &e, E2BIG);
    e.args[0] = 1ull << 40;
    CHECK_ERRNO(vm, KVM_ENABLE_CAP, &e, EINVAL); /* the upper half counts for nothing */
    e.args[0] = (uint64_t)most;
    CHECK_ERRNO(m.vm, KVM_ENABLE_CAP, &e, EINVAL); /* has a vCPU */
    CHECK_ERRNO(vm, KVM_ENABLE_CAP, &e, 0);
    CHECK_ERRNO(vm, KVM_ENABLE_CAP, &e, EINVAL);
    CHECK_ERRNO(vm, KVM_RESET_DIRTY_RINGS, 0, 0);
    int vcpu = CALL(vm, KVM_CREATE_VCPU, 3);
    volatile struct kvm_dirty_gfn *ring = p->port->mmap((size_t)most, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, KVM_DIRTY_LOG_PAGE_OFFSET * 4096);
    REQUIRE((void *)ring != MAP_FAILED);
    CHECK_EQ(ring[0].flags, 0);
    CHECK_EQ(ring[(size_t)most / sizeof *ring - 1].flags, 0);
    uint64_t bits[2];
    struct kvm_dirty_log log = { .slot = SLOT, .dirty_bitmap = bits };
    CHECK_ERRNO(vm, KVM_GET_DIRTY_LOG, &log, ENXIO);
    struct kvm_clear_dirty_log clear = { .slot = SLOT, .num_pages = 64, .dirty_bitmap = bits };
    CHECK_ERRNO(vm, KVM_CLEAR_DIRTY_LOG, &clear, ENXIO);
}

static volatile struct kvm_dirty_gfn *ring_machine(struct machine *m, const struct peer *p)
{
    *m = (struct machine){ .dev = p->port->open("/dev/kvm") };
    REQUIRE(m->dev >= 0);
    machine_need(m, p, KVM_CAP_DIRTY_LOG_RING, "KVM_CAP_DIRTY_LOG_RING");
    m->vm = CALL(m->dev, KVM_CREATE_VM, 0);
    struct kvm_enable_cap e = { .cap = KVM_CAP_DIRTY_LOG_RING, .args = { RING_BYTES } };
    if (p->port->ioctl(m->vm, KVM_ENABLE_CAP, &e) < 0 && p->is_host)
        conform_skip("this CPU logs pages itself, for which KVM keeps more of a ring back");
    m->ram = pages_of_client(0x100000);
    machine_set_slot(m, p, 0, 0, 0, 0x10000, m->ram);
    machine_set_slot(m, p, SLOT, KVM_MEM_LOG_DIRTY_PAGES, 0x10000, 0xf0000, m->ram + 0x10000);
    m->vcpu = machine_add_vcpu(m, p, 0, &m->run);
    volatile struct kvm_dirty_gfn *ring = p->port->mmap(RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, KVM_DIRTY_LOG_PAGE_OFFSET * 4096);
    REQUIRE((void *)ring != MAP_FAILED);
    return ring;
}

/* Takes the entries [*at, ...) that are there: they are to be pages of SLOT in order from `page` on. Returns how many. */
static unsigned take(volatile struct kvm_dirty_gfn *ring, unsigned *at, unsigned page)
{
    unsigned n = 0;
    for (volatile struct kvm_dirty_gfn *e; (e = &ring[*at % RING_ENTRIES])->flags == KVM_DIRTY_GFN_F_DIRTY; ++*at, n++) {
        CHECK_EQ(e->slot, SLOT);
        CHECK_EQ(e->offset, page + n);
        e->flags = KVM_DIRTY_GFN_F_RESET;
    }
    return n;
}

static void ring_reports_once(const struct peer *p)
{
    struct machine m;
    unsigned at = 0;
    volatile struct kvm_dirty_gfn *ring = ring_machine(&m, p);
    for (unsigned i = 0; i < 2; i++) { /* the second time they stand there already */
        touch(&m, p, 0x20, 5);
        RUN_TO(KVM_EXIT_HLT);
    }
    CHECK_EQ(take(ring, &at, 0x10), 5);
    touch(&m, p, 0x24, 2); /* 0x14 is taken but not reset: not again */
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(take(ring, &at, 0x15), 1);
    CHECK_EQ(CALL(m.vm, KVM_RESET_DIRTY_RINGS, 0), 6);
    CHECK_EQ(CALL(m.vm, KVM_RESET_DIRTY_RINGS, 0), 0);
    for (unsigned i = 0; i < at; i++)
        CHECK_EQ(ring[i].flags, 0);
    touch(&m, p, 0x24, 2);
    RUN_TO(KVM_EXIT_HLT);
    touch(&m, p, 3, 2); /* of a slot that is not logged */
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(take(ring, &at, 0x14), 2);
    CHECK_EQ(at, 8);
}

/* An entry that the client did not take ends the reset. */
static void ring_reset_in_order(const struct peer *p)
{
    struct machine m;
    volatile struct kvm_dirty_gfn *ring = ring_machine(&m, p);
    touch(&m, p, 0x20, 4);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(CALL(m.vm, KVM_RESET_DIRTY_RINGS, 0), 0);
    ring[0].flags = ring[2].flags = ring[3].flags = KVM_DIRTY_GFN_F_RESET;
    CHECK_EQ(CALL(m.vm, KVM_RESET_DIRTY_RINGS, 0), 1);
    ring[1].flags = KVM_DIRTY_GFN_F_RESET;
    ring[2].slot = 77; /* nonsense is passed over */
    ring[3].offset = 1ull << 40;
    CHECK_EQ(CALL(m.vm, KVM_RESET_DIRTY_RINGS, 0), 3);
}

static void ring_full(const struct peer *p)
{
    struct machine m;
    unsigned at = 0, n;
    volatile struct kvm_dirty_gfn *ring = ring_machine(&m, p);
    touch(&m, p, 0x10, 230);
    RUN_TO(KVM_EXIT_DIRTY_RING_FULL);
    RUN_TO(KVM_EXIT_DIRTY_RING_FULL); /* the client did nothing about it */
    n = take(ring, &at, 0);
    CHECK_EQ(n, FULL_AT);
    RUN_TO(KVM_EXIT_DIRTY_RING_FULL); /* taking alone is no reset */
    CHECK_EQ(CALL(m.vm, KVM_RESET_DIRTY_RINGS, 0), n);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(take(ring, &at, n), 230 - n);
    for (unsigned i = 0; i < 230; i++)
        CHECK_EQ(m.ram[0x10010 + i * 4096], 1);
    CHECK_EQ(CALL(m.vm, KVM_RESET_DIRTY_RINGS, 0), 230 - n);
    touch(&m, p, 0x10, 100); /* round the end of the ring */
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(take(ring, &at, 0), 100);
}

/* ---- while vCPUs write ----------------------------------------------------------------------------------------------------------------------- */

#define CHURN_FROM 0x20u /* pages */
#define CHURN_PAGES 96u
#define CHURN_ROUNDS 50u
#define CHURN_CPUS 2u

struct runner {
    struct machine m;
    const struct peer *p;
    pthread_t thread;
};

static void *runner_body(void *arg)
{
    struct runner *r = arg;
    for (;;) {
        if (r->p->port->ioctl(r->m.vcpu, KVM_RUN, 0) < 0)
            return "KVM_RUN failed";
        if (r->m.run->exit_reason == KVM_EXIT_HLT)
            return NULL;
        if (r->m.run->exit_reason != KVM_EXIT_DIRTY_RING_FULL)
            return "an exit of another kind";
        sched_yield();
    }
}

static void churn_start(struct runner *r, const struct peer *p)
{
    machine_load(&r->m, p, payload_churn, PAYLOAD_BYTES(churn));
    const uint16_t args[] = { CHURN_FROM << 8, CHURN_PAGES, 0 };
    memcpy(r->m.ram + DATA_AT, args, sizeof args);
    r->p = p;
    REQUIRE(!pthread_create(&r->thread, NULL, runner_body, r));
}

static void churn_join(struct runner *r)
{
    void *what;
    pthread_join(r->thread, &what);
    if (what)
        conform_fail(__FILE__, __LINE__, "%s, exit %u", (const char *)what, r->m.run->exit_reason);
}

/* As migration does: a page that was reported is copied after that. When nobody writes any more, the copies are the memory. */
static void check_copies(const struct machine *m, const uint8_t *copy)
{
    for (unsigned i = CHURN_FROM; i < CHURN_FROM + CHURN_PAGES; i++)
        if (memcmp(m->ram + i * 4096, copy + i * 4096, 4096))
            conform_fail(__FILE__, __LINE__, "page %#x was written and not reported", i);
}

static unsigned harvest_rings(const struct machine *m, const struct peer *p, volatile struct kvm_dirty_gfn *const ring[], unsigned at[], uint8_t *copy)
{
    unsigned n = 0, page[CHURN_CPUS * RING_ENTRIES];
    for (unsigned i = 0; i < CHURN_CPUS; i++)
        for (volatile struct kvm_dirty_gfn *e; (e = &ring[i][at[i] % RING_ENTRIES])->flags == KVM_DIRTY_GFN_F_DIRTY; at[i]++) {
            REQUIRE(n < CHURN_CPUS * RING_ENTRIES);
            page[n++] = 0x10 + (unsigned)e->offset;
            __atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        }
    CHECK_EQ(CALL(m->vm, KVM_RESET_DIRTY_RINGS, 0), n);
    for (unsigned i = 0; i < n; i++)
        memcpy(copy + page[i] * 4096, m->ram + page[i] * 4096, 4096);
    return n;
}

static void ring_loses_nothing(const struct peer *p)
{
    struct runner r[CHURN_CPUS];
    volatile struct kvm_dirty_gfn *ring[CHURN_CPUS];
    unsigned at[CHURN_CPUS] = { 0 };
    ring[0] = ring_machine(&r[0].m, p);
    uint8_t *copy = pages_of_client(0x100000);
    r[1].m = r[0].m;
    r[1].m.vcpu = machine_add_vcpu(&r[0].m, p, 1, &r[1].m.run);
    ring[1] = p->port->mmap(RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, r[1].m.vcpu, KVM_DIRTY_LOG_PAGE_OFFSET * 4096);
    REQUIRE((void *)ring[1] != MAP_FAILED);
    for (unsigned i = 0; i < CHURN_CPUS; i++)
        churn_start(&r[i], p);
    for (unsigned round = 0; round < CHURN_ROUNDS;) {
        round += harvest_rings(&r[0].m, p, ring, at, copy) != 0;
        sched_yield();
    }
    r[0].m.ram[DATA_AT + 4] = 1;
    for (unsigned i = 0; i < CHURN_CPUS; i++)
        churn_join(&r[i]);
    harvest_rings(&r[0].m, p, ring, at, copy);
    check_copies(&r[0].m, copy);
}

static bool harvest_log(const struct machine *m, const struct peer *p, bool is_manual, uint8_t *copy)
{
    uint64_t bits[4] = { 0 };
    struct kvm_dirty_log log = { .slot = SLOT, .dirty_bitmap = bits };
    struct kvm_clear_dirty_log clear = { .slot = SLOT, .num_pages = 0xf0, .dirty_bitmap = bits };
    CALL(m->vm, KVM_GET_DIRTY_LOG, &log);
    if (is_manual)
        CALL(m->vm, KVM_CLEAR_DIRTY_LOG, &clear);
    for (unsigned i = 0; i < 0xf0; i++)
        if (bits[i / 64] >> (i % 64) & 1)
            memcpy(copy + (0x10 + i) * 4096, m->ram + (0x10 + i) * 4096, 4096);
    return bits[0] | bits[1] | bits[2] | bits[3];
}

static void log_loses_nothing(const struct peer *p)
{
    for (unsigned is_manual = 0; is_manual < 2; is_manual++) {
        struct runner r[CHURN_CPUS];
        struct machine *m = &r[0].m;
        machine_create(m, p, 0);
        if (is_manual)
            enable(m, p, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
        machine_set_slot(m, p, 0, 0, 0, 0, NULL);
        m->ram = pages_of_client(0x100000);
        machine_set_slot(m, p, 0, 0, 0, 0x10000, m->ram);
        machine_set_slot(m, p, SLOT, KVM_MEM_LOG_DIRTY_PAGES, 0x10000, 0xf0000, m->ram + 0x10000);
        uint8_t *copy = pages_of_client(0x100000);
        r[1].m = *m;
        r[1].m.vcpu = machine_add_vcpu(m, p, 1, &r[1].m.run);
        for (unsigned i = 0; i < CHURN_CPUS; i++)
            churn_start(&r[i], p);
        for (unsigned round = 0; round < CHURN_ROUNDS;) {
            round += harvest_log(m, p, is_manual, copy);
            sched_yield();
        }
        m->ram[DATA_AT + 4] = 1;
        for (unsigned i = 0; i < CHURN_CPUS; i++)
            churn_join(&r[i]);
        harvest_log(m, p, is_manual, copy);
        check_copies(m, copy);
    }
}

const struct conform_case cases_today_dirty[] = {
    { "log_survives_what_keeps_memory", log_survives_what_keeps_memory },
    { "log_bad_pointer", log_bad_pointer },
    { "log_initially_set", log_initially_set },
    { "log_clear_ranges", log_clear_ranges },
    { "ring_set_up", ring_set_up },
    { "ring_reports_once", ring_reports_once },
    { "ring_reset_in_order", ring_reset_in_order },
    { "ring_full", ring_full },
    { "ring_loses_nothing", ring_loses_nothing },
    { "log_loses_nothing", log_loses_nothing },
};
const size_t n_cases_today_dirty = sizeof cases_today_dirty / sizeof *cases_today_dirty;
