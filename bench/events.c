/* SPDX-License-Identifier: MIT */
/*
 * What events cost: a guest in a loop of instructions that raise one each. The cost per event to the vCPU while nobody listens, while listeners want others,
 * and while it is told; events per second that another process takes; round trips that another process answers, over the ring and by KVMI, beside those of a
 * bare unix socket. Prints "EVENT name value", or "FAIL events: reason" with exit status 1. Use: bench_events [SECONDS]. Started by bench/run.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "abi/kvmi.h"
#include "transport/inproc.h"
#include "vitrine/inspect.h"

#define EVENTS_RAM_BYTES 0x10000u
#define EVENTS_CODE_GPA 0x1000u
#define EVENTS_TURNS 1000000u
#define EVENTS_PORT 0x10u
#define EVENTS_AT_ONCE 1024u
#define EVENTS_DEFAULT_SECONDS 1.0

/* clang-format off: assembler */
#define EVENTS_GUEST(name, text)                                                                                                       \
    extern const uint8_t name[], name##_end[];                                                                                         \
    __asm__(".pushsection .rodata\n" #name ":\n.code16\n mov $1000000, %esi\n 1:" text "\n dec %esi\n jnz 1b\n out %al, $0x10\n" #name \
            "_end:\n.code64\n.popsection\n")
/* clang-format on */

EVENTS_GUEST(events_clts, "clts");                                          /* a write to CR0 that changes nothing: the cheapest event */
EVENTS_GUEST(events_cr0, "mov %cr0, %eax\n xor $8, %eax\n mov %eax, %cr0"); /* CR0.TS */

/* ---- the machine ---- */

struct machine {
    int device, vm, vcpu;
    struct kvm_run *run;
    uint8_t *ram;
};

static const char *machine_open(struct machine *m)
{
    struct kvm_userspace_memory_region region = { .memory_size = EVENTS_RAM_BYTES };
    m->device = vitrine_open("/dev/kvm");
    m->vm = vitrine_ioctl(m->device, KVM_CREATE_VM, NULL);
    m->ram = mmap(NULL, EVENTS_RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    region.userspace_addr = (uintptr_t)m->ram;
    if (m->vm < 0 || m->ram == MAP_FAILED || vitrine_ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region))
        return "the machine";
    m->vcpu = vitrine_ioctl(m->vm, KVM_CREATE_VCPU, NULL);
    m->run = vitrine_mmap((size_t)vitrine_ioctl(m->device, KVM_GET_VCPU_MMAP_SIZE, NULL), PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
    return m->vcpu < 0 || m->run == MAP_FAILED ? "the vCPU" : NULL;
}

static const char *machine_run(struct machine *m, const uint8_t *code, const uint8_t *end)
{
    struct kvm_regs regs = { .rip = EVENTS_CODE_GPA, .rflags = 2, .rsp = 0x7000 };
    struct kvm_sregs sregs;
    memcpy(m->ram + EVENTS_CODE_GPA, code, (size_t)(end - code));
    if (vitrine_ioctl(m->vcpu, KVM_GET_SREGS, &sregs))
        return "KVM_GET_SREGS";
    sregs.cs.base = sregs.cs.selector = 0;
    if (vitrine_ioctl(m->vcpu, KVM_SET_SREGS, &sregs) || vitrine_ioctl(m->vcpu, KVM_SET_REGS, &regs))
        return "KVM_SET_REGS";
    while (vitrine_ioctl(m->vcpu, KVM_RUN, NULL))
        if (errno != EINTR)
            return "KVM_RUN";
    return m->run->exit_reason == KVM_EXIT_IO && m->run->io.port == EVENTS_PORT ? NULL : "another exit than expected";
}

/* In a process of its own, for ever. Its pid, when the machine is there. */
static pid_t machine_start(const uint8_t *code, const uint8_t *end)
{
    struct machine m;
    int ready[2];
    char byte;
    if (pipe(ready))
        return -1;
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!machine_open(&m) && write(ready[1], "", 1) == 1)
            while (!machine_run(&m, code, end))
                ;
        _exit(1);
    }
    close(ready[1]);
    bool is_there = child > 0 && read(ready[0], &byte, 1) == 1;
    close(ready[0]);
    return is_there ? child : -1;
}

static void machine_stop(pid_t child)
{
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
}

static struct vitrine_vm *open_by_pid(pid_t pid)
{
    char which[16];
    snprintf(which, sizeof which, "%d", (int)pid);
    return vitrine_vm_open(which);
}

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- what the vCPU pays ---- */

/* Nanoseconds of this thread per turn: the median of some runs. */
static const char *cost(struct machine *m, double *ns)
{
    enum { N = 5 };
    double t[N];
    for (unsigned i = 0; i < N; i++) {
        double begin = seconds_of(CLOCK_THREAD_CPUTIME_ID);
        const char *failed = machine_run(m, events_clts, events_clts_end);
        if (failed)
            return failed;
        t[i] = (seconds_of(CLOCK_THREAD_CPUTIME_ID) - begin) * 1e9 / EVENTS_TURNS;
        for (unsigned k = i; k && t[k] < t[k - 1]; k--) {
            double swap = t[k];
            t[k] = t[k - 1];
            t[k - 1] = swap;
        }
    }
    *ns = t[N / 2];
    return NULL;
}

static const char *subscribe(struct vitrine_vm *vm, uint32_t kinds, uint32_t flags, unsigned n)
{
    struct vitrine_subscription s = { .kinds = kinds, .flags = flags, .last_index = UINT32_MAX };
    for (unsigned i = 0; i < n; i++)
        if (vitrine_vm_subscribe(vm, &s, NULL, 0) < 0)
            return "subscribe";
    return NULL;
}

/* One row of what listening costs; the handle ends with it. */
static const char *measure_cost(struct machine *m, const char *name, const struct vitrine_subscription *what, unsigned n)
{
    double ns = 0;
    struct vitrine_vm *vm = open_by_pid(getpid());
    const char *failed = vm ? NULL : "open";
    for (unsigned i = 0; i < n && !failed; i++)
        failed = vitrine_vm_subscribe(vm, what, NULL, 0) < 0 ? "subscribe" : NULL;
    if (!failed)
        failed = cost(m, &ns);
    vitrine_vm_close(vm);
    if (!failed)
        printf("EVENT %s %.1f\n", name, ns);
    return failed;
}

static const char *measure_costs(void)
{
    struct machine m;
    const struct vitrine_subscription others = { .kinds = VITRINE_ON_CPUID, .last_index = UINT32_MAX },
                                      elsewhere = { .kinds = VITRINE_ON_CR, .first_index = 3, .last_index = 3 },
                                      all = { .kinds = VITRINE_ON_CR, .last_index = UINT32_MAX };
    const char *failed = machine_open(&m);
    if (!failed)
        failed = measure_cost(&m, "unwatched_ns", &all, 0);
    if (!failed)
        failed = measure_cost(&m, "other_kind_ns", &others, 200);
    if (!failed)
        failed = measure_cost(&m, "filtered_ns", &elsewhere, 1);
    if (!failed)
        failed = measure_cost(&m, "filtered_by_20_ns", &elsewhere, 20);
    if (!failed)
        failed = measure_cost(&m, "told_ns", &all, 1);
    return failed;
}

/* ---- another process ---- */

static const char *take(struct vitrine_vm *vm, double seconds)
{
    static struct vitrine_event event[EVENTS_AT_ONCE];
    uint64_t n_events = 0, next = 0, dropped = 0;
    double begin = 0, now;
    do {
        int n = vitrine_vm_next_events(vm, event, EVENTS_AT_ONCE, 60000, &dropped);
        if (n <= 0)
            return "next_events";
        for (int i = 0; i < n; i++, next = event[i - 1].sequence + 1)
            if (next && event[i].sequence != next)
                return "events are missing";
        now = seconds_of(CLOCK_MONOTONIC);
        if (!begin)
            begin = now;
        else
            n_events += (uint64_t)n;
    } while (now - begin < seconds);
    if (dropped)
        return "events were dropped";
    printf("EVENT taken_per_s %.0f\n", (double)n_events / (now - begin));
    return NULL;
}

static const char *answer(struct vitrine_vm *vm, double seconds)
{
    struct vitrine_event event;
    uint64_t n_events = 0;
    double begin = seconds_of(CLOCK_MONOTONIC), now;
    do {
        if (vitrine_vm_next_events(vm, &event, 1, 60000, NULL) != 1 || vitrine_vm_answer(vm, &event, VITRINE_CONTINUE, 0))
            return "answer";
        n_events++;
        now = seconds_of(CLOCK_MONOTONIC);
    } while (now - begin < seconds);
    printf("EVENT answered_us %.2f\n", (now - begin) * 1e6 / (double)n_events);
    return NULL;
}

static const char *measure_tool(double seconds, uint32_t flags, const char *(*measure)(struct vitrine_vm *vm, double seconds))
{
    pid_t child = machine_start(events_clts, events_clts_end);
    struct vitrine_vm *vm = child > 0 ? open_by_pid(child) : NULL;
    const char *failed = vm ? subscribe(vm, VITRINE_ON_CR, flags, 1) : "a machine in another process";
    if (!failed)
        failed = measure(vm, seconds);
    vitrine_vm_close(vm);
    machine_stop(child);
    return failed;
}

/* ---- sockets ---- */

static bool transfer(int fd, void *data, size_t bytes, bool is_sent)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = is_sent ? send(fd, (char *)data + done, bytes - done, MSG_NOSIGNAL) : recv(fd, (char *)data + done, bytes - done, 0);
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

#define EVENTS_MESSAGE_BYTES (sizeof(struct kvmi_head) + sizeof(struct kvmi_event) + sizeof(struct kvmi_event_cr))
struct events_reply {
    struct kvmi_head head;
    struct kvmi_vcpu vcpu;
    struct kvmi_event_reply reply;
    uint64_t value;
};

/* Messages as long as KVMI's, and nothing behind them. */
static const char *measure_socket(double seconds)
{
    uint8_t message[EVENTS_MESSAGE_BYTES] = { 0 };
    int pair[2];
    uint64_t n = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        return "socketpair";
    pid_t child = fork();
    if (child == 0) {
        close(pair[0]);
        while (transfer(pair[1], message, sizeof message, true) && transfer(pair[1], message, sizeof(struct events_reply), false))
            ;
        _exit(0);
    }
    close(pair[1]);
    double begin = seconds_of(CLOCK_MONOTONIC), now;
    do {
        if (!transfer(pair[0], message, sizeof message, false) || !transfer(pair[0], message, sizeof(struct events_reply), true))
            return "a socket";
        n++;
        now = seconds_of(CLOCK_MONOTONIC);
    } while (now - begin < seconds);
    close(pair[0]);
    waitpid(child, NULL, 0);
    printf("EVENT socket_us %.2f\n", (now - begin) * 1e6 / (double)n);
    return NULL;
}

static bool command(int fd, uint16_t id, const void *request, uint16_t bytes)
{
    struct {
        struct kvmi_head head;
        struct kvmi_vcpu vcpu;
        uint8_t payload[16];
    } out = { .head = { .id = id, .bytes = (uint16_t)(sizeof out.vcpu + bytes), .sequence = id } };
    struct {
        struct kvmi_head head;
        struct kvmi_error error;
    } in;
    memcpy(out.payload, request, bytes);
    return transfer(fd, &out, sizeof out.head + out.head.bytes, true) && transfer(fd, &in, sizeof in, false) && in.head.id == id && !in.error.error;
}

static const char *kvmi_serve(int fd, double seconds)
{
    const struct kvmi_control_events on = { .event = KVMI_EVENT_CR, .enable = 1 };
    const struct kvmi_control_register cr0 = { .enable = 1, .index = 0 };
    struct kvmi_hello hello;
    struct kvmi_answer mine = { .struct_bytes = sizeof mine };
    uint64_t n = 0;
    if (!transfer(fd, &hello, sizeof hello, false) || !transfer(fd, &mine, sizeof mine, true))
        return "the greeting";
    if (!command(fd, KVMI_CONTROL_EVENTS, &on, sizeof on) || !command(fd, KVMI_CONTROL_CR, &cr0, sizeof cr0))
        return "KVMI's commands";
    double begin = seconds_of(CLOCK_MONOTONIC), now;
    do {
        struct {
            struct kvmi_head head;
            struct kvmi_event event;
            struct kvmi_event_cr cr;
        } in;
        if (!transfer(fd, &in, sizeof in, false) || in.head.id != KVMI_EVENT || in.event.event != KVMI_EVENT_CR)
            return "an event of KVMI";
        struct events_reply out = { .head = { .id = KVMI_EVENT_REPLY, .bytes = sizeof out - sizeof out.head, .sequence = in.head.sequence },
                                    .reply = { .action = KVMI_CONTINUE, .event = KVMI_EVENT_CR },
                                    .value = in.cr.new_value };
        if (!transfer(fd, &out, sizeof out, true))
            return "an answer of KVMI";
        n++;
        now = seconds_of(CLOCK_MONOTONIC);
    } while (now - begin < seconds);
    printf("EVENT kvmi_us %.2f\n", (now - begin) * 1e6 / (double)n);
    return NULL;
}

static const char *measure_kvmi(double seconds)
{
    struct sockaddr_un here = { .sun_family = AF_UNIX };
    char folder[] = "/tmp/vitrine-bench-XXXXXX", where[sizeof here.sun_path + 8];
    if (!mkdtemp(folder))
        return "a folder";
    snprintf(here.sun_path, sizeof here.sun_path, "%s/tool", folder);
    snprintf(where, sizeof where, "unix:%s", here.sun_path);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), fd = -1;
    pid_t child = machine_start(events_cr0, events_cr0_end);
    struct vitrine_vm *vm = child > 0 ? open_by_pid(child) : NULL;
    struct pollfd p = { .fd = listener, .events = POLLIN };
    const char *failed = NULL;
    if (!vm || bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 1) || vitrine_vm_attach(vm, where))
        failed = "attach";
    else if (poll(&p, 1, 60000) != 1 || (fd = accept(listener, NULL, NULL)) < 0)
        failed = "the machine does not come";
    else
        failed = kvmi_serve(fd, seconds);
    vitrine_vm_close(vm);
    machine_stop(child);
    close(fd);
    close(listener);
    unlink(here.sun_path);
    rmdir(folder);
    return failed;
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? strtod(argv[1], NULL) : EVENTS_DEFAULT_SECONDS;
    const char *failed = measure_tool(seconds, VITRINE_SUBSCRIBE_LOSSLESS, take);
    if (!failed)
        failed = measure_tool(seconds, VITRINE_SUBSCRIBE_ASK, answer);
    if (!failed)
        failed = measure_socket(seconds);
    if (!failed)
        failed = measure_kvmi(seconds);
    if (!failed)
        failed = measure_costs(); /* last: from then on this process has a machine */
    if (failed)
        printf("FAIL events: %s: %s\n", failed, strerror(errno));
    return failed != NULL;
}
