/* SPDX-License-Identifier: MIT */
/*
 * What the boundary between a client and its guest costs: exits to the client by port and by memory, writes that end in an eventfd, an interrupt from an
 * eventfd to the guest and its answer by another, and the ioctl itself. A client like any other: drives vitrine in process, or whatever /dev/kvm is. Every exit
 * is checked to be the one expected. Prints "EXIT who kind nanoseconds round-trips", "SKIP who kind: reason" or "FAIL who kind: reason"; exit 1 if something
 * failed. Use: bench_exits vitrine|host [NAME [ROUND-TRIPS]]. Started by bench/run.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "transport/inproc.h"
#include "vmm/port.h"

#define EXITS_CODE_GPA 0x1000u
#define EXITS_HANDLER_GPA 0x1100u
#define EXITS_MMIO_SEGMENT 0x8000u
#define EXITS_PORT 0x1f0u
#define EXITS_EVENT_PORT 0x1f8u
#define EXITS_GSI 5u
#define EXITS_VECTOR 0x0du /* of GSI 5 at the 8259 as the code sets it up */
#define EXITS_MEM_BYTES 0x10000u
#define EXITS_DEFAULT 200000u
#define EXITS_WARM_UP 1000u
#define EXITS_ANSWER_MS 5000

static const struct port exits_vitrine = {
    .name = "vitrine",
    .open = vitrine_open,
    .ioctl = vitrine_ioctl,
    .mmap = vitrine_mmap,
    .close = vitrine_close,
};

struct machine {
    const struct port *port;
    int kvm, vm, vcpu, event, irq;
    size_t run_bytes;
    struct kvm_run *run;
    uint8_t *mem;
    uint8_t data; /* of the exit before: it counts up, so that an exit lost or given twice is seen */
    _Atomic bool stop;
};

static const uint8_t exits_code_pio[] = { 0xfe, 0xc0, 0xee, 0xeb, 0xfb };        /* 1: inc al; out dx, al; jmp 1b */
static const uint8_t exits_code_mmio[] = { 0xfe, 0xc0, 0x88, 0x07, 0xeb, 0xfa }; /* 1: inc al; mov [bx], al; jmp 1b */
/* 1: mov ecx, esi; 2: out dx, al (to the eventfd); a32 loop 2b; out 0x80, al; jmp 1b */
static const uint8_t exits_code_event[] = { 0x66, 0x89, 0xf1, 0xee, 0x67, 0xe2, 0xfc, 0xe6, 0x80, 0xeb, 0xf5 };
/* 8259: ICW1-4, base 8, nothing masked; out dx, al (ready); sti; 1: hlt; jmp 1b */
static const uint8_t exits_code_irq[] = { 0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x08, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0,
                                          0x01, 0xe6, 0x21, 0xb0, 0x00, 0xe6, 0x21, 0xee, 0xfb, 0xf4, 0xeb, 0xfd };
static const uint8_t exits_handler[] = { 0xb0, 0x20, 0xe6, 0x20, 0xee, 0xcf }; /* mov al, 20h; out 20h, al (EOI); out dx, al (to the eventfd); iret */

static void machine_close(struct machine *m)
{
    if (m->run != MAP_FAILED)
        munmap(m->run, m->run_bytes);
    const int fds[] = { m->vcpu, m->vm, m->kvm };
    for (unsigned i = 0; i < 3; i++)
        if (fds[i] >= 0)
            m->port->close(fds[i]);
    if (m->event >= 0)
        close(m->event);
    if (m->irq >= 0)
        close(m->irq);
    if (m->mem != MAP_FAILED)
        munmap(m->mem, EXITS_MEM_BYTES);
}

/* Name of the step that failed, or NULL. */
static const char *machine_open(struct machine *m, const struct port *port, bool has_irqchip)
{
    struct kvm_userspace_memory_region region = { .memory_size = EXITS_MEM_BYTES };
    int bytes;

    *m = (struct machine){ .port = port, .kvm = -1, .vm = -1, .vcpu = -1, .event = -1, .irq = -1, .run = MAP_FAILED };
    m->mem = mmap(NULL, EXITS_MEM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m->mem == MAP_FAILED)
        return "memory";
    m->event = eventfd(0, EFD_NONBLOCK);
    m->irq = eventfd(0, EFD_NONBLOCK);
    if (m->event < 0 || m->irq < 0)
        return "eventfd";
    m->kvm = port->open("/dev/kvm");
    if (m->kvm < 0)
        return "open /dev/kvm";
    m->vm = port->ioctl(m->kvm, KVM_CREATE_VM, NULL);
    if (m->vm < 0)
        return "KVM_CREATE_VM";
    if (has_irqchip && port->ioctl(m->vm, KVM_CREATE_IRQCHIP, NULL) < 0)
        return "KVM_CREATE_IRQCHIP";
    region.userspace_addr = (uintptr_t)m->mem;
    if (port->ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return "KVM_SET_USER_MEMORY_REGION";
    m->vcpu = port->ioctl(m->vm, KVM_CREATE_VCPU, NULL);
    if (m->vcpu < 0)
        return "KVM_CREATE_VCPU";
    bytes = port->ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (bytes < (int)sizeof(*m->run))
        return "KVM_GET_VCPU_MMAP_SIZE";
    m->run_bytes = (size_t)bytes;
    m->run = port->mmap(m->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
    return m->run == MAP_FAILED ? "mmap of kvm_run" : NULL;
}

static const char *machine_load(struct machine *m, const uint8_t *code, size_t n, uint16_t port, unsigned turns)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rip = EXITS_CODE_GPA, .rsp = 0x8000, .rdx = port, .rsi = turns, .rflags = 2 };

    memcpy(m->mem + EXITS_CODE_GPA, code, n);
    if (m->port->ioctl(m->vcpu, KVM_GET_SREGS, &sregs) < 0)
        return "KVM_GET_SREGS";
    sregs.cs.selector = 0;
    sregs.cs.base = 0;
    sregs.ds.selector = EXITS_MMIO_SEGMENT;
    sregs.ds.base = EXITS_MMIO_SEGMENT << 4;
    if (m->port->ioctl(m->vcpu, KVM_SET_SREGS, &sregs) < 0)
        return "KVM_SET_SREGS";
    return m->port->ioctl(m->vcpu, KVM_SET_REGS, &regs) < 0 ? "KVM_SET_REGS" : NULL;
}

static const char *machine_event(struct machine *m)
{
    struct kvm_ioeventfd event = { .addr = EXITS_EVENT_PORT, .len = 1, .fd = m->event, .flags = KVM_IOEVENTFD_FLAG_PIO };
    return m->port->ioctl(m->vm, KVM_IOEVENTFD, &event) < 0 ? "KVM_IOEVENTFD" : NULL;
}

static uint64_t exits_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- exits to the client ------------------------------------------------------------------------------------------------------------------- */

static bool exit_is_pio(const struct kvm_run *run, uint16_t port)
{
    return run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT && run->io.size == 1 && run->io.port == port && run->io.count == 1;
}

static bool exit_is_mmio(const struct kvm_run *run)
{
    return run->exit_reason == KVM_EXIT_MMIO && run->mmio.is_write && run->mmio.len == 1 && run->mmio.phys_addr == EXITS_MMIO_SEGMENT << 4;
}

static const char *run_once(struct machine *m)
{
    while (m->port->ioctl(m->vcpu, KVM_RUN, NULL) < 0)
        if (errno != EINTR)
            return "KVM_RUN";
    return NULL;
}

static const char *exits_turns(struct machine *m, bool is_mmio, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const char *failed = run_once(m);
        if (failed)
            return failed;
        bool is_right = is_mmio ? exit_is_mmio(m->run) : exit_is_pio(m->run, EXITS_PORT);
        if (!is_right || (is_mmio ? m->run->mmio.data[0] : *((const uint8_t *)m->run + m->run->io.data_offset)) != ++m->data)
            return "another exit than expected";
    }
    return NULL;
}

static const char *exits_measure(struct machine *m, bool is_mmio, unsigned n, double *ns)
{
    const char *failed = is_mmio ? machine_load(m, exits_code_mmio, sizeof exits_code_mmio, EXITS_PORT, 0)
                                 : machine_load(m, exits_code_pio, sizeof exits_code_pio, EXITS_PORT, 0);
    if (!failed)
        failed = exits_turns(m, is_mmio, EXITS_WARM_UP);
    uint64_t start = exits_now_ns();
    if (!failed)
        failed = exits_turns(m, is_mmio, n);
    *ns = (double)(exits_now_ns() - start) / n;
    return failed;
}

static const char *measure_pio(struct machine *m, unsigned n, double *ns)
{
    return exits_measure(m, false, n, ns);
}

static const char *measure_mmio(struct machine *m, unsigned n, double *ns)
{
    return exits_measure(m, true, n, ns);
}

/* ---- eventfds ------------------------------------------------------------------------------------------------------------------------------ */

static const char *measure_ioeventfd(struct machine *m, unsigned n, double *ns)
{
    uint64_t count = 0, start = 0;
    const char *failed = machine_event(m);
    if (!failed)
        failed = machine_load(m, exits_code_event, sizeof exits_code_event, EXITS_EVENT_PORT, n);
    for (unsigned turn = 0; turn < 2 && !failed; turn++) { /* the first warms up */
        start = exits_now_ns();
        failed = run_once(m);
        if (!failed && !exit_is_pio(m->run, 0x80))
            return "another exit than expected";
        if (!failed && (read(m->event, &count, sizeof count) != sizeof count || count != n))
            return "not every write was counted";
    }
    *ns = (double)(exits_now_ns() - start) / n;
    return failed;
}

static void on_kick(int sig)
{
    (void)sig;
}

static void *run_until_stopped(void *arg)
{
    struct machine *m = arg;
    while (!atomic_load(&m->stop))
        if (m->port->ioctl(m->vcpu, KVM_RUN, NULL) == 0)
            break; /* no exit is expected */
    return NULL;
}

static const char *irq_answer(struct machine *m)
{
    struct pollfd answer = { .fd = m->event, .events = POLLIN };
    uint64_t count;
    if (poll(&answer, 1, EXITS_ANSWER_MS) != 1)
        return "the guest does not answer";
    return read(m->event, &count, sizeof count) != sizeof count || count != 1 ? "not one answer" : NULL;
}

static const char *irq_turns(struct machine *m, unsigned n)
{
    const char *failed = NULL;
    uint64_t one = 1;
    for (unsigned i = 0; i < n && !failed; i++)
        failed = write(m->irq, &one, sizeof one) != sizeof one ? "write to the irqfd" : irq_answer(m);
    return failed;
}

static const char *irq_prepare(struct machine *m)
{
    struct kvm_irqfd irqfd = { .fd = (uint32_t)m->irq, .gsi = EXITS_GSI };
    const uint16_t handler[] = { EXITS_HANDLER_GPA, 0 };
    memcpy(m->mem + EXITS_HANDLER_GPA, exits_handler, sizeof exits_handler);
    memcpy(m->mem + 4 * EXITS_VECTOR, handler, sizeof handler);
    if (m->port->ioctl(m->vm, KVM_IRQFD, &irqfd) < 0)
        return "KVM_IRQFD";
    const char *failed = machine_event(m);
    return failed ? failed : machine_load(m, exits_code_irq, sizeof exits_code_irq, EXITS_EVENT_PORT, 0);
}

/* The vCPU sleeps in HLT in a thread of its own. */
static const char *measure_irqfd(struct machine *m, unsigned n, double *ns)
{
    struct sigaction kick = { .sa_handler = on_kick };
    pthread_t thread;
    const char *failed = irq_prepare(m);
    n = n / 10 + 1; /* two threads wake each other: slow */
    if (failed)
        return failed;
    sigaction(SIGUSR1, &kick, NULL);
    if (pthread_create(&thread, NULL, run_until_stopped, m))
        return "a thread";
    failed = irq_answer(m); /* the 8259 is set up: before that an edge would be forgotten */
    if (!failed)
        failed = irq_turns(m, n / 10 + 1);
    uint64_t start = exits_now_ns();
    if (!failed)
        failed = irq_turns(m, n);
    *ns = (double)(exits_now_ns() - start) / n;
    atomic_store(&m->stop, true);
    m->run->immediate_exit = 1;
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, NULL);
    return failed;
}

/* ---- the call itself ----------------------------------------------------------------------------------------------------------------------- */

static const char *measure_ioctl(struct machine *m, unsigned n, double *ns)
{
    uint64_t start = exits_now_ns();
    for (unsigned i = 0; i < n; i++)
        if (m->port->ioctl(m->kvm, KVM_CHECK_EXTENSION, (void *)KVM_CAP_USER_MEMORY) != 1)
            return "KVM_CHECK_EXTENSION";
    *ns = (double)(exits_now_ns() - start) / n;
    return NULL;
}

/* An ioctl that has nothing to do with KVM: what it costs to be looked at and passed on. */
static const char *measure_other_ioctl(struct machine *m, unsigned n, double *ns)
{
    int waiting, pipes[2];
    if (pipe(pipes))
        return "pipe";
    (void)m;
    uint64_t start = exits_now_ns();
    for (unsigned i = 0; i < n; i++)
        if (ioctl(pipes[0], FIONREAD, &waiting) || waiting)
            return "FIONREAD";
    *ns = (double)(exits_now_ns() - start) / n;
    close(pipes[0]);
    close(pipes[1]);
    return NULL;
}

static const struct kind {
    const char *name;
    bool has_irqchip;
    const char *(*measure)(struct machine *m, unsigned n, double *ns);
} kinds[] = {
    { "pio", false, measure_pio },    { "mmio", false, measure_mmio },   { "ioeventfd", false, measure_ioeventfd },
    { "irqfd", true, measure_irqfd }, { "ioctl", false, measure_ioctl }, { "other_ioctl", false, measure_other_ioctl },
};

static bool kind_run(const struct kind *kind, const struct port *port, const char *name, unsigned n)
{
    struct machine m;
    double ns = 0;
    errno = 0;
    const char *failed = machine_open(&m, port, kind->has_irqchip);
    if (!failed)
        failed = kind->measure(&m, n, &ns);
    if (!failed)
        printf("EXIT %s %s %.1f %u\n", name, kind->name, ns, n);
    else
        printf("FAIL %s %s: %s (%s, exit reason %u)\n", name, kind->name, failed, strerror(errno), m.run == MAP_FAILED ? 0 : m.run->exit_reason);
    machine_close(&m);
    return !failed;
}

int main(int argc, char **argv)
{
    const struct port *port = argc < 2 ? NULL : !strcmp(argv[1], "vitrine") ? &exits_vitrine : !strcmp(argv[1], "host") ? &port_host : NULL;
    unsigned long n = argc > 3 ? strtoul(argv[3], NULL, 10) : EXITS_DEFAULT;
    const char *name = argc > 2 ? argv[2] : argc > 1 ? argv[1] : "";
    bool is_well = true;

    if (!port || argc > 4 || n < 1 || n > 1000000000) {
        fprintf(stderr, "usage: bench_exits vitrine|host [NAME [ROUND-TRIPS]]\n");
        return 2;
    }
    int fd = port->open("/dev/kvm");
    if (fd < 0) {
        printf("SKIP %s all: /dev/kvm: %s\n", name, strerror(errno));
        return 0;
    }
    port->close(fd);
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
        is_well &= kind_run(&kinds[i], port, name, (unsigned)n);
    return !is_well;
}
