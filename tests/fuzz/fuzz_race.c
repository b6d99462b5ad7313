/* SPDX-License-Identifier: MIT */
/*
 * Two vCPUs run guest code that writes, jumps and rewrites itself while two more threads change the VM under them: slots come, go and move, logs are read,
 * interrupts and eventfds are raised and taken away, registers are set, run pages are scribbled over, fds are duplicated and closed, tools come with views of
 * the memory and go. Judged: nothing crashes,
 * nothing hangs, and memory beside the slots stays as it was. See batches.h; a seed repeats the choices and not the
 * schedule.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "batches.h"
#include "core/vm.h"
#include "introspect/view.h"
#include "transport/inproc.h"

#define CPUS 2
#define CHANGERS 2
#define TOOLS 2
#define SLOTS 3
#define SLOT_BYTES 0x10000u
#define AROUND_BYTES 0x10000u
#define CANARY 0xc5
#define RUN_BYTES (3 * 4096)
#define BATCH_MS 120
#define BATCH_SECONDS 30
#define FIXED_BATCHES 20

struct race {
    uint8_t *area; /* slot memory, each piece between canaries */
    int dev_fd, vm_fd, cpu_fd[CPUS], event_fd;
    struct kvm_run *run[CPUS];
    pthread_t cpu[CPUS], changer[CHANGERS + TOOLS];
    _Atomic bool stop;
    _Atomic unsigned cpus_running;
    bool has_chips;
    uint64_t seed;
};

static int call(int fd, unsigned long request, const void *arg)
{
    return vitrine_ioctl(fd, request, (void *)(uintptr_t)arg);
}

static uint8_t *piece(const struct race *r, unsigned slot)
{
    return r->area + AROUND_BYTES + slot * (SLOT_BYTES + AROUND_BYTES);
}

/* Slot 0 at address 0 stays most of the time; the others wander. */
static void set_slot(struct race *r, unsigned slot, bool is_there, uint64_t gpa, uint32_t flags)
{
    struct kvm_userspace_memory_region region = { .slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = is_there ? SLOT_BYTES : 0 };
    region.userspace_addr = (uintptr_t)piece(r, slot);
    call(r->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

/* Real-mode code: counts up memory in the slots and beyond, changes an instruction of its own, sometimes reaches a port or an eventfd. */
static void put_code(uint8_t *ram)
{
    static const uint8_t code[] = {
        0xb8, 0x00, 0x10,             /* 0x1000: mov ax, 0x1000 */
        0x8e, 0xc0,                   /*   mov es, ax           ; the second slot, if it is there */
        0x31, 0xff,                   /*   xor di, di */
        0xff, 0x06, 0x00, 0x30,       /* 0x1007: inc word [0x3000] */
        0x26, 0xff, 0x05,             /*   inc word es:[di] */
        0x83, 0xc7, 0x3e,             /*   add di, 62 */
        0xfe, 0x06, 0x15, 0x10,       /*   inc byte [0x1015]    ; the immediate below */
        0xb0, 0x01,                   /* 0x1015-1: mov al, imm */
        0xa8, 0x3f,                   /*   test al, 63 */
        0x75, 0xed,                   /*   jnz 0x1007 */
        0xe6, 0x80,                   /*   out 0x80, al */
        0xfb,                         /*   sti */
        0xf0, 0xff, 0x06, 0x02, 0x30, /*   lock inc word [0x3002] */
        0xeb, 0xe4,                   /*   jmp back */
    };
    memcpy(ram + 0x1000, code, sizeof code);
    for (unsigned v = 0; v < 256; v++) { /* every vector: a bare IRET at 0x1800 */
        ram[v * 4] = 0x00;
        ram[v * 4 + 1] = 0x18;
        ram[v * 4 + 2] = ram[v * 4 + 3] = 0;
    }
    ram[0x1800] = 0xcf;
}

static void set_state(struct race *r, unsigned i)
{
    struct kvm_regs regs = { .rip = 0x1000, .rflags = 2, .rsp = 0x8000 + 0x1000 * i };
    struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };
    struct kvm_sregs sregs = { .cr0 = 0 };
    if (call(r->cpu_fd[i], KVM_GET_SREGS, &sregs))
        return;
    sregs.cs.base = sregs.cs.selector = 0;
    sregs.cr0 = 0x10;
    call(r->cpu_fd[i], KVM_SET_SREGS, &sregs);
    call(r->cpu_fd[i], KVM_SET_REGS, &regs);
    call(r->cpu_fd[i], KVM_SET_MP_STATE, &mp);
}

struct actor {
    struct race *r;
    unsigned i;
};

static void *cpu_thread(void *arg)
{
    struct actor *a = arg;
    struct race *r = a->r;
    set_state(r, a->i);
    while (!atomic_load(&r->stop)) {
        r->run[a->i]->immediate_exit = 0;
        int got = call(r->cpu_fd[a->i], KVM_RUN, NULL);
        if (got < 0 && errno == EBADF)
            break; /* its fd was closed */
        if (got < 0 || (r->run[a->i]->exit_reason != KVM_EXIT_IO && r->run[a->i]->exit_reason != KVM_EXIT_MMIO))
            set_state(r, a->i);
    }
    atomic_fetch_sub(&r->cpus_running, 1);
    return NULL;
}

static void change_eventfds(struct race *r, uint64_t *s)
{
    struct kvm_irqfd irqfd = { .fd = (uint32_t)r->event_fd, .gsi = batches_choose(s, 24), .flags = batches_choose(s, 2) ? KVM_IRQFD_FLAG_DEASSIGN : 0 };
    struct kvm_ioeventfd io = { .addr = 0x80, .len = 1, .fd = r->event_fd, .flags = KVM_IOEVENTFD_FLAG_PIO };
    struct kvm_coalesced_mmio_zone zone = { .addr = 0x10000 + 0x1000 * batches_choose(s, 32), .size = 0x1000 };
    uint64_t one = 1;
    switch (batches_choose(s, 4)) {
    case 0:
        call(r->vm_fd, KVM_IRQFD, &irqfd);
        break;
    case 1:
        io.flags |= batches_choose(s, 2) ? KVM_IOEVENTFD_FLAG_DEASSIGN : 0;
        call(r->vm_fd, KVM_IOEVENTFD, &io);
        break;
    case 2:
        call(r->vm_fd, batches_choose(s, 2) ? KVM_REGISTER_COALESCED_MMIO : KVM_UNREGISTER_COALESCED_MMIO, &zone);
        break;
    default:
        (void)!write(r->event_fd, &one, sizeof one);
    }
}

static void change_interrupts(struct race *r, uint64_t *s)
{
    struct kvm_irq_level level = { .irq = batches_choose(s, 24), .level = batches_choose(s, 2) };
    struct kvm_interrupt interrupt = { .irq = batches_choose(s, 256) };
    struct kvm_msi msi = { .address_lo = 0xfee00000 | batches_choose(s, 3) << 12, .data = 32 + batches_choose(s, 200) };
    struct kvm_lapic_state lapic;
    unsigned i = batches_choose(s, CPUS);
    switch (batches_choose(s, 5)) {
    case 0:
        call(r->vm_fd, KVM_IRQ_LINE, &level);
        break;
    case 1:
        call(r->cpu_fd[i], KVM_INTERRUPT, &interrupt);
        break;
    case 2:
        call(r->vm_fd, KVM_SIGNAL_MSI, &msi);
        break;
    case 3:
        call(r->cpu_fd[i], KVM_NMI, NULL);
        break;
    default:
        if (!call(r->cpu_fd[i], KVM_GET_LAPIC, &lapic)) {
            lapic.regs[0xf1] = 1; /* software enable */
            call(r->cpu_fd[i], KVM_SET_LAPIC, &lapic);
        }
    }
}

static void change_memory(struct race *r, uint64_t *s)
{
    static uint8_t bitmap[CHANGERS * 64];
    struct kvm_dirty_log log = { .slot = batches_choose(s, SLOTS), .dirty_bitmap = bitmap };
    unsigned slot = batches_choose(s, 8) ? 1 + batches_choose(s, SLOTS - 1) : 0;
    if (batches_choose(s, 2))
        call(r->vm_fd, KVM_GET_DIRTY_LOG, &log);
    set_slot(r, slot, batches_choose(s, 2), slot ? 0x10000 * (1 + batches_choose(s, 3)) : 0,
             (batches_choose(s, 2) ? KVM_MEM_LOG_DIRTY_PAGES : 0) | (batches_choose(s, 6) ? 0 : KVM_MEM_READONLY));
    if (slot == 0)
        set_slot(r, 0, true, 0, 0);
}

#define PAGES_IN_SLOTS 80u

/* A tool with whatever it has set; or it comes, or goes: nobody answers what it is asked, but its end. */
static void change_views(struct look_listener **tool, uint64_t *s)
{
    struct look_page page = { .gpa = (gpa_t)batches_choose(s, PAGES_IN_SLOTS) << 12, .access = batches_choose(s, 8), .writeable = (uint32_t)batches_random(s) };
    gpa_t target = (gpa_t)batches_choose(s, PAGES_IN_SLOTS) << 12;
    unsigned view = batches_choose(s, 4);
    if (!*tool) {
        struct vm *vm = vm_find(1);
        if (vm && look_listener_create(vm, tool))
            *tool = NULL;
        if (vm)
            vm_put(vm);
        return;
    }
    switch (batches_choose(s, 10)) {
    case 0:
        look_listener_destroy(*tool);
        *tool = NULL;
        break;
    case 1:
        look_view_create(*tool);
        break;
    case 2:
        look_view_destroy(*tool, view);
        break;
    case 3:
    case 4:
        look_view_switch(*tool, batches_choose(s, CPUS), view);
        break;
    case 5:
    case 6:
        look_view_remap(*tool, view, page.gpa, target);
        break;
    case 7:
        if (batches_choose(s, 2))
            look_page_add(*tool, page.gpa);
        else
            look_page_remove(*tool, page.gpa);
        break;
    case 8:
        look_view_set_writeable(*tool, view, &page, 1);
        break;
    default:
        look_view_set_access(*tool, view, &page, 1);
    }
}

/* A byte of the run page, but immediate_exit stays the run's own. */
static void scribble(struct race *r, uint64_t *s)
{
    uint8_t *p = (uint8_t *)r->run[batches_choose(s, CPUS)];
    unsigned at = batches_choose(s, RUN_BYTES);
    if (at != offsetof(struct kvm_run, immediate_exit))
        ((volatile uint8_t *)p)[at] = (uint8_t)batches_random(s);
}

static void *changer_thread(void *arg)
{
    struct actor *a = arg;
    struct race *r = a->r;
    uint64_t s = r->seed + 0x1234567 * (a->i + 1);
    while (!atomic_load(&r->stop)) {
        unsigned i = batches_choose(&s, CPUS);
        batches_count(1);
        switch (batches_choose(&s, 12)) {
        case 0:
        case 1:
        case 2:
            change_eventfds(r, &s);
            break;
        case 3:
        case 4:
        case 5:
            change_interrupts(r, &s);
            break;
        case 6:
        case 7:
        case 8:
            change_memory(r, &s);
            break;
        case 9:
            scribble(r, &s);
            break;
        case 10: {
            int copy = dup(batches_choose(&s, 2) ? r->vm_fd : r->cpu_fd[i]);
            if (copy >= 0)
                vitrine_close(copy);
            break;
        }
        default: /* makes the calls above, which wait for the run to end, go on */
            r->run[i]->immediate_exit = 1;
            pthread_kill(r->cpu[i], SIGUSR1);
        }
    }
    return NULL;
}

/* Unlike the others it waits for no end of a run. */
static void *tool_thread(void *arg)
{
    struct actor *a = arg;
    struct look_listener *tool = NULL;
    uint64_t s = a->r->seed + 0x1234567 * (a->i + 1);
    while (!atomic_load(&a->r->stop)) {
        batches_count(1);
        change_views(&tool, &s);
    }
    if (tool)
        look_listener_destroy(tool);
    return NULL;
}

static void on_kick(int sig)
{
    (void)sig;
}

static void race_create(struct race *r)
{
    size_t bytes = AROUND_BYTES + SLOTS * (SLOT_BYTES + AROUND_BYTES);
    r->area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(r->area, CANARY, bytes);
    for (unsigned i = 0; i < SLOTS; i++)
        memset(piece(r, i), 0, SLOT_BYTES);
    put_code(piece(r, 0));
    r->event_fd = eventfd(0, EFD_NONBLOCK);
    r->dev_fd = vitrine_open("/dev/kvm");
    r->vm_fd = call(r->dev_fd, KVM_CREATE_VM, NULL);
    if (r->has_chips)
        call(r->vm_fd, KVM_CREATE_IRQCHIP, NULL);
    set_slot(r, 0, true, 0, 0);
    for (unsigned i = 0; i < CPUS; i++) {
        r->cpu_fd[i] = call(r->vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)i);
        r->run[i] = vitrine_mmap(RUN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, r->cpu_fd[i], 0);
        if (r->cpu_fd[i] < 0 || r->run[i] == MAP_FAILED)
            _exit(1);
    }
}

static void sleep_ms(unsigned ms)
{
    nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000l }, NULL);
}

static void check_canaries(const struct race *r)
{
    for (unsigned i = 0; i <= SLOTS; i++) {
        const uint8_t *p = r->area + i * (SLOT_BYTES + AROUND_BYTES);
        for (unsigned k = 0; k < AROUND_BYTES; k++) {
            if (p[k] == CANARY)
                continue;
            printf("# memory beside the slots was written\n");
            fflush(stdout);
            _exit(1);
        }
    }
}

static void race_batch(uint64_t seed)
{
    static struct race r;
    static struct actor actor[CPUS + CHANGERS + TOOLS];
    struct sigaction sa = { .sa_handler = on_kick };
    uint64_t s = seed;
    sigaction(SIGUSR1, &sa, NULL);
    r.seed = seed;
    r.has_chips = batches_choose(&s, 4);
    bool closes_early = batches_choose(&s, 2);
    race_create(&r);
    atomic_store(&r.cpus_running, CPUS);
    for (unsigned i = 0; i < CPUS + CHANGERS + TOOLS; i++) {
        actor[i] = (struct actor){ &r, i < CPUS ? i : i - CPUS };
        pthread_create(i < CPUS ? &r.cpu[i] : &r.changer[i - CPUS], NULL,
                       i < CPUS              ? cpu_thread
                       : i < CPUS + CHANGERS ? changer_thread
                                             : tool_thread,
                       &actor[i]);
    }
    sleep_ms(BATCH_MS);
    if (closes_early) { /* under running vCPUs; nothing else may take the numbers, so the changers only get EBADF */
        vitrine_close(r.vm_fd);
        vitrine_close(r.cpu_fd[batches_choose(&s, CPUS)]);
        sleep_ms(10);
    }
    atomic_store(&r.stop, true);
    while (atomic_load(&r.cpus_running)) {
        for (unsigned i = 0; i < CPUS; i++) {
            r.run[i]->immediate_exit = 1;
            pthread_kill(r.cpu[i], SIGUSR1);
        }
        sleep_ms(1);
    }
    for (unsigned i = 0; i < CPUS; i++)
        pthread_join(r.cpu[i], NULL);
    for (unsigned i = 0; i < CHANGERS + TOOLS; i++)
        pthread_join(r.changer[i], NULL);
    for (unsigned i = 0; i < CPUS; i++)
        vitrine_close(r.cpu_fd[i]);
    vitrine_close(r.vm_fd);
    vitrine_close(r.dev_fd);
    check_canaries(&r);
}

int main(void)
{
    static const struct batches b = { "changes under running vCPUs", "changes", FIXED_BATCHES, BATCH_SECONDS, race_batch };
    return batches_run(&b);
}
