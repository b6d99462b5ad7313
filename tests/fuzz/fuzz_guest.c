/* SPDX-License-Identifier: MIT */
/*
 * Random code as a guest, in real, 32-bit and 64-bit mode, and random changes of what RSM returns to: whatever it does, it reaches no byte outside of its slot
 * (the mappings around its RAM hold canaries), a read-only slot stays as it was, KVM_RUN comes back when asked to, and the process lives. Code is part plain
 * noise, part instructions put together from opcodes and prefixes, with values and addresses at edges in the registers. In half of the batches a tool is asked
 * about what happens and answers at random. See batches.h.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include "batches.h"
#include "core/vm.h"
#include "introspect/listen.h"
#include "transport/inproc.h"

#define RAM_BYTES 0x40000u
#define ROM_BYTES 0x4000u
#define ROM_GPA 0xf0000u
#define AROUND_BYTES 0x10000u
#define CANARY 0xc5
#define CODE 0x8000u
#define CODE_BYTES 512u
#define TABLES 0x1000u  /* PML4, PDPT, PD, PT for 64-bit mode; 32-bit mode runs unpaged or on the same tables by PAE */
#define SMBASE 0x30000u /* the handler and the save area end where the RAM does */
#define SMM_SLOT (1u << 16)
#define RUN_US 3000
#define RUNS_PER_BATCH 60
#define EXITS_PER_RUN 40
#define BATCH_SECONDS 60
#define FIXED_BATCHES 12

static uint64_t state;

static uint64_t fuzz_random(void)
{
    return batches_random(&state);
}

static unsigned choose(unsigned n)
{
    return batches_choose(&state, n);
}

static uint64_t fuzz_number(void)
{
    static const uint64_t edges[] = {
        0,      1,         2,           0xfff,      0x1000,     0x1fff,     RAM_BYTES - 1,         RAM_BYTES - 7,         RAM_BYTES,
        0xffff, ROM_GPA,   ROM_GPA - 3, 0x7fffffff, 0x80000000, 0xfee00000, 0x7fffffffffff,        0x800000000000,        ~0ull << 47,
        ~0ull,  ~0ull - 7, 1ull << 63,  0xffffffff, CODE,       CODE + 64,  0xfffffffffffff000ull, 0x00007ffffffff000ull, RAM_BYTES - 63
    };
    switch (choose(4)) {
    case 0:
        return fuzz_random() % RAM_BYTES;
    case 1:
        return fuzz_random() >> choose(64);
    default:
        return edges[choose(sizeof edges / sizeof *edges)];
    }
}

/* ---- code --------------------------------------------------------------------------------------------------------------------------------- */

static uint8_t *put_instruction(uint8_t *p, bool is_64)
{
    static const uint8_t prefixes[] = { 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65 };
    while (choose(3) == 0)
        *p++ = prefixes[choose(sizeof prefixes)];
    if (choose(12) == 0) { /* VEX and EVEX, valid or nearly so */
        if (choose(3)) {
            *p++ = 0xc4;
            *p++ = (uint8_t)(0xe0 | (1 + choose(3)));
            *p++ = (uint8_t)fuzz_random();
        } else {
            *p++ = 0x62;
            *p++ = (uint8_t)(0xf0 | (1 + choose(3)));
            *p++ = (uint8_t)(fuzz_random() | 4);
            *p++ = (uint8_t)fuzz_random();
        }
    } else {
        if (is_64 && choose(2))
            *p++ = (uint8_t)(0x40 | choose(16));
        if (choose(3) == 0)
            *p++ = 0x0f;
    }
    *p++ = (uint8_t)fuzz_random();
    *p++ = (uint8_t)fuzz_random(); /* ModRM, immediate or the next opcode */
    for (unsigned n = choose(7); n--;)
        *p++ = choose(3) ? 0 : (uint8_t)fuzz_random();
    return p;
}

static void put_code(uint8_t *code, bool is_64)
{
    uint8_t *p = code, *end = code + CODE_BYTES - 32;
    unsigned noise = choose(4) == 0;
    while (p < end) {
        if (noise)
            *p++ = (uint8_t)fuzz_random();
        else
            p = put_instruction(p, is_64);
        if (choose(24) == 0 && p > code + 4) { /* back, so that translations link and run hot */
            unsigned back = 2 + choose((unsigned)(p - code) < 120 ? (unsigned)(p - code) : 120);
            *p++ = choose(3) ? 0xe2 : 0x75;
            *p++ = (uint8_t)-back;
        }
    }
    *p++ = 0xf4;
}

/* ---- machine ------------------------------------------------------------------------------------------------------------------------------- */

struct guest {
    uint8_t *area, *ram, *rom; /* area: canaries, RAM, canaries, ROM, canaries */
    int dev_fd, vm_fd, cpu_fd;
    struct kvm_run *run;
};
#define AREA_BYTES (AROUND_BYTES + RAM_BYTES + AROUND_BYTES + ROM_BYTES + AROUND_BYTES)

static volatile struct kvm_run *alarm_run;

static void on_alarm(int sig)
{
    (void)sig;
    if (alarm_run)
        alarm_run->immediate_exit = 1;
}

static int call(int fd, unsigned long request, const void *arg)
{
    return vitrine_ioctl(fd, request, (void *)(uintptr_t)arg);
}

static void fail(const char *what)
{
    printf("# %s (errno %d)\n", what, errno);
    fflush(stdout);
    _exit(1);
}

static void set_slot(struct guest *g, uint32_t slot, uint64_t gpa, uint64_t bytes, uint8_t *at, uint32_t flags)
{
    struct kvm_userspace_memory_region region = { .slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = bytes, .userspace_addr = (uintptr_t)at };
    if (call(g->vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
        fail("KVM_SET_USER_MEMORY_REGION");
}

static void guest_create(struct guest *g)
{
    g->area = mmap(NULL, AREA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g->ram = g->area + AROUND_BYTES;
    g->rom = g->ram + RAM_BYTES + AROUND_BYTES;
    memset(g->area, CANARY, AREA_BYTES);
    g->dev_fd = vitrine_open("/dev/kvm");
    g->vm_fd = call(g->dev_fd, KVM_CREATE_VM, NULL);
    if (g->vm_fd < 0)
        fail("KVM_CREATE_VM");
    if (choose(2))
        call(g->vm_fd, KVM_CREATE_IRQCHIP, NULL);
    set_slot(g, 0, 0, RAM_BYTES, g->ram, choose(4) ? 0 : KVM_MEM_LOG_DIRTY_PAGES);
    set_slot(g, 1, ROM_GPA, ROM_BYTES, g->rom, KVM_MEM_READONLY);
    set_slot(g, SMM_SLOT, 0, RAM_BYTES, g->ram, choose(4) ? 0 : KVM_MEM_LOG_DIRTY_PAGES);
    set_slot(g, SMM_SLOT | 1, ROM_GPA, ROM_BYTES, g->rom, KVM_MEM_READONLY);
    g->cpu_fd = call(g->vm_fd, KVM_CREATE_VCPU, NULL);
    g->run = vitrine_mmap(3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, g->cpu_fd, 0);
    if (g->cpu_fd < 0 || g->run == MAP_FAILED)
        fail("KVM_CREATE_VCPU");
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entry[128];
    } table;
    table.head.nent = 128;
    if (choose(8) && (call(g->dev_fd, KVM_GET_SUPPORTED_CPUID, &table) || call(g->cpu_fd, KVM_SET_CPUID2, &table)))
        fail("KVM_SET_CPUID2");
}

static bool is_canary(const uint8_t *p, size_t n)
{
    while (n--)
        if (*p++ != CANARY)
            return false;
    return true;
}

static void guest_check(const struct guest *g)
{
    if (!is_canary(g->area, AROUND_BYTES) || !is_canary(g->ram + RAM_BYTES, AROUND_BYTES) || !is_canary(g->rom + ROM_BYTES, AROUND_BYTES))
        fail("the guest wrote outside of its memory");
    if (!is_canary(g->rom, ROM_BYTES))
        fail("the guest wrote to read-only memory");
}

static void put_tables(uint8_t *ram)
{
    uint64_t *t = (uint64_t *)(ram + TABLES);
    memset(t, 0, 4 * 4096);
    t[0] = (TABLES + 0x1000) | 7;
    t[512] = (TABLES + 0x2000) | 7;
    t[1024] = (TABLES + 0x3000) | 7;
    t[1025] = fuzz_random() % (RAM_BYTES * 4) | 0x87; /* a large page over RAM, holes and ROM, maybe with reserved bits */
    for (unsigned i = 0; i < 512; i++)
        t[1536 + i] = i << 12 | 7;
    for (unsigned i = 0; i < 4; i++) /* some pages elsewhere, some with any rights */
        t[1536 + choose(512)] = (fuzz_random() % (2 * RAM_BYTES) & ~0xfffull) | choose(0x200) | (choose(8) ? 0 : fuzz_random() << 52);
}

/* Descriptors 1: code 32, 2: data, 3: code 64, 4: user code, 5: user data, 6: TSS; and gates to code for every vector. */
static void put_descriptors(uint8_t *ram, bool is_64)
{
    static const uint64_t gdt[] = {
        0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff, 0x00008b0060000067, 0
    };
    memcpy(ram + 0x5000, gdt, sizeof gdt);
    for (unsigned i = 0; i < 256; i++) {
        uint64_t selector = is_64 ? 0x18 : 8, type = choose(4) ? 0x8e : 0xee;
        uint64_t gate[2] = { (CODE + choose(CODE_BYTES)) | selector << 16 | type << 40, 0 };
        if (choose(16) == 0)
            gate[0] ^= 1ull << choose(64);
        memcpy(ram + 0x6000 + (is_64 ? 16 : 8) * i, gate, is_64 ? 16 : 8);
    }
}

static void set_sregs(struct guest *g, unsigned mode)
{
    struct kvm_segment code = {
        .limit = 0xffffffff, .selector = mode == 2 ? 0x18 : 8, .type = 11, .present = 1, .s = 1, .db = mode == 1, .l = mode == 2, .g = 1
    };
    struct kvm_segment data = { .limit = 0xffffffff, .selector = 0x10, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
    struct kvm_sregs s;
    if (call(g->cpu_fd, KVM_GET_SREGS, &s))
        fail("KVM_GET_SREGS");
    s.cr4 = choose(2) ? 0x600 : 0;
    s.efer = 0;
    s.cr0 = 0x10;
    if (mode == 0) {
        s.ds = s.es = s.fs = s.gs = s.ss = (struct kvm_segment){ .limit = 0xffff, .type = 3, .present = 1, .s = 1 };
        s.cs = (struct kvm_segment){ .limit = 0xffff, .type = 11, .present = 1, .s = 1 };
        s.idt.base = 0;
        s.idt.limit = 0x3ff;
    } else {
        s.cs = code;
        s.ds = s.es = s.fs = s.gs = s.ss = data;
        if (choose(4) == 0) { /* short segments */
            s.ds.limit = (uint32_t)fuzz_number();
            s.ds.base = mode == 1 ? fuzz_number() & 0xffffffff : 0;
            s.fs.base = fuzz_number() & 0xffffffff;
        }
        s.gdt.base = 0x5000;
        s.gdt.limit = 63;
        s.idt.base = 0x6000;
        s.idt.limit = 0xfff;
        s.tr = (struct kvm_segment){ .base = 0x6000, .limit = 0x67, .selector = 0x30, .type = 11, .present = 1 };
        s.cr0 = 0x11 | choose(2) << 16;
        s.cr3 = TABLES;
    }
    if (mode == 2 || (mode == 1 && choose(2))) {
        s.cr0 |= 0x80000000;
        s.cr4 |= 0x20 | (choose(4) ? 0 : 0x80);
    }
    if (mode == 1 && (s.cr0 & 0x80000000))
        s.cr3 = TABLES + 0x1000; /* PAE: its first entry leads to the PD; an entry of a PDPT has no rights */
    if (mode == 2)
        s.efer = 0x500 | choose(2) << 11 | choose(2);
    if (mode == 1 && (s.cr0 & 0x80000000))
        ((uint64_t *)(g->ram + TABLES))[512] = (TABLES + 0x2000) | 1;
    if (call(g->cpu_fd, KVM_SET_SREGS, &s))
        fail("KVM_SET_SREGS");
}

static void set_regs(struct guest *g, unsigned mode)
{
    struct kvm_regs r;
    uint64_t *gpr = (uint64_t *)&r;
    uint64_t mask = mode == 2 ? ~0ull : 0xffffffff;
    for (unsigned i = 0; i < 16; i++)
        gpr[i] = fuzz_number() & mask;
    r.rsp = choose(4) ? 0x20000 - choose(64) : fuzz_number() & mask;
    r.rip = CODE + choose(8);
    r.rflags = 2 | (choose(2) ? fuzz_random() & 0x240dd5 : 0);
    if (call(g->cpu_fd, KVM_SET_REGS, &r))
        fail("KVM_SET_REGS");
    static struct kvm_fpu fpu;
    for (unsigned i = 0; i < sizeof fpu.xmm / 8; i++)
        ((uint64_t *)fpu.xmm)[i] = fuzz_number();
    for (unsigned i = 0; i < sizeof fpu.fpr / 8; i++)
        ((uint64_t *)fpu.fpr)[i] = fuzz_number();
    fpu.fcw = choose(2) ? 0x37f : 0x300;
    fpu.mxcsr = choose(2) ? 0x1f80 : 0;
    call(g->cpu_fd, KVM_SET_FPU, &fpu);
}

/* Interrupt state and posted exits of the run before must not stop the next one. */
static void clear_events(struct guest *g)
{
    struct kvm_vcpu_events events;
    struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };
    if (!call(g->cpu_fd, KVM_GET_VCPU_EVENTS, &events)) {
        memset(&events.exception, 0, sizeof events.exception);
        memset(&events.interrupt, 0, sizeof events.interrupt);
        memset(&events.nmi, 0, sizeof events.nmi);
        memset(&events.smi, 0, sizeof events.smi);
        call(g->cpu_fd, KVM_SET_VCPU_EVENTS, &events);
    }
    call(g->cpu_fd, KVM_SET_MP_STATE, &mp);
}

/* An SMI whose handler puts numbers into the save area, at words or beside them, and returns. */
static void put_smi(struct guest *g)
{
    uint8_t *p = g->ram + SMBASE + 0x8000;
    for (unsigned n = choose(5); n--;) {
        static const uint8_t store[] = { 0x2e, 0x66, 0xc7, 0x06 }; /* mov dword cs:[at], value */
        uint16_t at = (uint16_t)(0xfe00 + choose(0x1fc));
        uint32_t value = (uint32_t)fuzz_number();
        at = choose(8) ? at & 0xfffc : at;
        memcpy(p, store, sizeof store);
        memcpy(p + 4, &at, 2);
        memcpy(p + 6, &value, 4);
        p += 10;
    }
    memcpy(p, "\x0f\xaa", 2);
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } smbase = { .head.nmsrs = 1, .entry = { .index = 0x9e, .data = choose(16) ? SMBASE : fuzz_number() } };
    if (call(g->cpu_fd, KVM_SET_MSRS, &smbase) != 1 || call(g->cpu_fd, KVM_SMI, NULL))
        fail("KVM_SMI");
}

static void run_once(struct guest *g)
{
    struct itimerval timer = { .it_value = { .tv_usec = RUN_US }, .it_interval = { .tv_usec = RUN_US } };
    g->run->immediate_exit = 0;
    alarm_run = g->run;
    setitimer(ITIMER_REAL, &timer, NULL);
    for (unsigned i = 0; i < EXITS_PER_RUN; i++) {
        int r = call(g->cpu_fd, KVM_RUN, NULL);
        if (r < 0 && (errno == EINTR || errno == EFAULT || errno == EINVAL))
            break;
        if (r < 0)
            fail("KVM_RUN");
        if (g->run->exit_reason == KVM_EXIT_IO || g->run->exit_reason == KVM_EXIT_MMIO) {
            uint64_t value = fuzz_random();
            if (g->run->exit_reason == KVM_EXIT_MMIO && !g->run->mmio.is_write)
                memcpy(g->run->mmio.data, &value, 8);
            continue;
        }
        break; /* HLT, SHUTDOWN, internal error: the end of this code */
    }
    alarm_run = NULL;
    timer = (struct itimerval){ 0 };
    setitimer(ITIMER_REAL, &timer, NULL);
}

/* A tool that is asked about everything, answers anyhow, and changes its mind about what it wants to know. */
static void *tool(void *arg)
{
    static struct watch_record r[8];
    uint64_t s = *(uint64_t *)arg, dropped;
    struct vm *vm = vm_find(1);
    for (;;) {
        struct look_listener *l;
        struct look_filter f = { .kinds = (uint32_t)(batches_random(&s) & batches_random(&s)) & ((1u << WATCH_KINDS) - 1),
                                 .is_asking = true,
                                 .last_index = UINT32_MAX };
        struct look_range range = { batches_choose(&s, 2) ? 0 : CODE, batches_choose(&s, 2) ? RAM_BYTES : CODE + 100, 1 + batches_choose(&s, 7) };
        if (look_listener_create(vm, &l))
            _exit(1);
        look_subscribe(l, &f, &range, f.kinds & WATCH_ACCESS ? 1 : 0);
        for (unsigned i = 0; i < 100; i++) {
            struct pollfd p = { .fd = look_listener_fd(l), .events = POLLIN };
            if (poll(&p, 1, 20) == 0)
                break;
            for (unsigned n = look_listener_next(l, r, 8, &dropped); n--;)
                look_answer(l, r[n].vcpu, r[n].question, batches_choose(&s, 4) ? WATCH_CONTINUE : (enum watch_answer)batches_choose(&s, WATCH_ANSWERS),
                            batches_random(&s));
        }
        look_listener_destroy(l);
    }
    return NULL;
}

static void fuzz_batch(uint64_t seed)
{
    pthread_t thread;
    uint64_t tool_seed = seed + 1;
    state = seed;
    struct sigaction sa = { .sa_handler = on_alarm };
    struct guest g;
    sigaction(SIGALRM, &sa, NULL);
    guest_create(&g);
    if (choose(2) && pthread_create(&thread, NULL, tool, &tool_seed))
        fail("pthread_create");
    for (unsigned i = 0; i < RUNS_PER_BATCH; i++) {
        unsigned mode = choose(3);
        if (choose(8) == 0)
            for (unsigned k = 0; k < RAM_BYTES; k += 8)
                *(uint64_t *)(g.ram + k) = fuzz_number();
        put_tables(g.ram);
        put_descriptors(g.ram, mode == 2);
        put_code(g.ram + CODE, mode == 2);
        clear_events(&g);
        set_sregs(&g, mode);
        set_regs(&g, mode);
        if (choose(3) == 0)
            put_smi(&g);
        run_once(&g);
        guest_check(&g);
        batches_count(1);
    }
    vitrine_close(g.cpu_fd);
    vitrine_close(g.vm_fd);
    vitrine_close(g.dev_fd);
    _exit(0);
}

int main(void)
{
    static const struct batches b = { "random code", "runs", FIXED_BATCHES, BATCH_SECONDS, fuzz_batch };
    return batches_run(&b);
}
