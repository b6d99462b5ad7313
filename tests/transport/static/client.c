/* SPDX-License-Identifier: MIT */
/*
 * A statically linked KVM client that knows nothing of vitrine: guests, and what a C library does with signals, threads, processes and memory. run-static
 * builds it with several libraries and runs it under `vitrine run`, and without (argument "plain": what is not about the node must hold there too). One thing:
 * all of it shares handlers and thread-local variables, whose mixing up it looks for. TAP.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define NODE "/dev/kvm"
#define N_THREADS 4
#define PAGE 4096u

static bool has_failed;
static const char *self;
static _Thread_local int own = 7; /* of the client's thread: our library's would be elsewhere */

static void check(bool claim, const char *name)
{
    int error = errno;
    printf("%s - %s\n", claim ? "ok" : "not ok", name);
    if (!claim)
        printf("# errno %d (%s)\n", error, strerror(error));
    fflush(stdout);
    has_failed |= !claim;
    errno = 0;
}

static bool fails(long r, int want)
{
    return r == -1 && errno == want;
}

/* ---- guests ---- */

struct guest {
    int fd, vm, vcpu;
    struct kvm_run *run;
    size_t run_bytes;
    uint8_t *memory;
};

/* Real mode, code at 0x100 of one page. */
static bool guest_open(struct guest *g, const void *code, size_t bytes)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rflags = 2, .rip = 0x100 };
    g->fd = open(NODE, O_RDWR | O_CLOEXEC);
    g->vm = ioctl(g->fd, KVM_CREATE_VM, 0);
    g->vcpu = ioctl(g->vm, KVM_CREATE_VCPU, 0);
    g->memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memcpy(g->memory + 0x100, code, bytes);
    struct kvm_userspace_memory_region region = { .memory_size = PAGE, .userspace_addr = (uintptr_t)g->memory };
    g->run_bytes = (size_t)ioctl(g->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    g->run = mmap(NULL, g->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, 0);
    if (g->run == MAP_FAILED || ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &region) || ioctl(g->vcpu, KVM_GET_SREGS, &sregs))
        return false;
    sregs.cs.base = sregs.cs.selector = 0;
    return !ioctl(g->vcpu, KVM_SET_SREGS, &sregs) && !ioctl(g->vcpu, KVM_SET_REGS, &regs);
}

static void guest_close(struct guest *g)
{
    munmap(g->run, g->run_bytes);
    close(g->vcpu);
    close(g->vm);
    close(g->fd);
    munmap(g->memory, PAGE);
}

/* out 0x10, al; inc ax; jmp back: an exit per turn. */
static const uint8_t code_out[] = { 0xe6, 0x10, 0x40, 0xeb, 0xfb };
static const uint8_t code_hlt[] = { 0xf4 };
static const uint8_t code_loop[] = { 0xeb, 0xfe };

/* Not the host's device. */
static bool is_vitrine(int fd)
{
    char path[40], target[40] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return readlink(path, target, sizeof target - 1) > 0 && !strncmp(target, "/memfd:kvm", 10);
}

static bool guest_halts(void)
{
    struct guest g;
    bool is = guest_open(&g, code_hlt, sizeof code_hlt) && is_vitrine(g.fd) && !ioctl(g.vcpu, KVM_RUN, 0) && g.run->exit_reason == KVM_EXIT_HLT;
    guest_close(&g);
    return is;
}

static void *count_exits(void *arg)
{
    struct guest g;
    long n = 0;
    own = 100;
    if (guest_open(&g, code_out, sizeof code_out))
        for (; n < 2000 && !ioctl(g.vcpu, KVM_RUN, 0) && g.run->exit_reason == KVM_EXIT_IO; n++)
            if (*((uint8_t *)g.run + g.run->io.data_offset) != (uint8_t)n || own++ != 100 + n)
                break;
    guest_close(&g);
    *(long *)arg = n;
    return NULL;
}

static void guests(void)
{
    pthread_t thread[N_THREADS];
    long n[N_THREADS] = { 0 }, total = 0;
    struct stat st;
    check(guest_halts(), "a guest runs");
    for (int i = 0; i < N_THREADS; i++)
        pthread_create(&thread[i], NULL, count_exits, &n[i]);
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(thread[i], NULL), total += n[i];
    check(total == N_THREADS * 2000, "guests in threads, each with its own thread-local variables");
    check(stat(NODE, &st) == 0 && S_ISCHR(st.st_mode) && access(NODE, R_OK | W_OK) == 0, "stat and access of the node");
    int fd = open(NODE, O_RDWR), copy = dup(fd), far = fcntl(fd, F_DUPFD_CLOEXEC, 100);
    check(fstat(fd, &st) == 0 && S_ISCHR(st.st_mode), "fstat of its fd");
    check(close(fd) == 0 && ioctl(copy, KVM_GET_API_VERSION, 0) == 12 && dup2(far, copy) == copy && ioctl(copy, KVM_GET_API_VERSION, 0) == 12,
          "duplicates of its fd");
    check(close(copy) == 0 && close(far) == 0 && fails(ioctl(far, KVM_GET_API_VERSION, 0), EBADF) && fails(close(far), EBADF), "close");
    check(fails(ioctl(0, KVM_GET_API_VERSION, 0), ENOTTY), "a request of KVM's to another file");
    fd = open(NODE, O_RDWR);
    check(fails(ioctl(fd, KVM_GET_SUPPORTED_CPUID, (void *)16), EFAULT), "a wrong pointer is EFAULT");
    close(fd);
}

static volatile sig_atomic_t alarms, own_seen;

static void on_alarm(int sig)
{
    (void)sig;
    alarms++;
    own_seen = own;
}

static void interrupted_guests(void)
{
    struct guest g;
    struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
    struct itimerval often = { { 0, 20000 }, { 0, 20000 } }, never = { { 0, 0 }, { 0, 0 } };
    sigset_t blocked, old;
    own = 11;
    sigaction(SIGALRM, &action, NULL);
    check(guest_open(&g, code_loop, sizeof code_loop), "a guest that loops");
    setitimer(ITIMER_REAL, &often, NULL);
    int n = 0;
    while (n < 5 && fails(ioctl(g.vcpu, KVM_RUN, 0), EINTR) && g.run->exit_reason == KVM_EXIT_INTR)
        n++;
    setitimer(ITIMER_REAL, &never, NULL);
    check(n == 5 && alarms >= 5 && own_seen == 11, "a timer's signals end its runs, and the handler has the thread's variables");
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGALRM);
    sigprocmask(SIG_BLOCK, &blocked, &old);
    struct {
        struct kvm_signal_mask head;
        uint64_t set;
    } mask = { { .len = 8 }, 0 };
    alarms = 0;
    raise(SIGALRM);
    bool is_set = !ioctl(g.vcpu, KVM_SET_SIGNAL_MASK, &mask);
    check(is_set && fails(ioctl(g.vcpu, KVM_RUN, 0), EINTR) && alarms == 0, "the run's own mask lets a blocked signal end it, unhandled");
    sigprocmask(SIG_SETMASK, &old, NULL);
    check(alarms == 1, "which comes when it is unblocked");
    guest_close(&g);
}

/* ---- signals ---- */

static uint8_t stack[64 << 10] __attribute__((aligned(16)));
static volatile bool was_on_stack, was_refused, was_masked;
static sigjmp_buf back;
static void *volatile fault_address;
static volatile int value;

static void on_stack(int sig)
{
    uint8_t here;
    stack_t s, other = { .ss_sp = stack, .ss_size = sizeof stack };
    sigset_t mask;
    was_on_stack = &here >= stack && &here < stack + sizeof stack && !sigaltstack(NULL, &s) && s.ss_flags == SS_ONSTACK && s.ss_sp == stack;
    was_refused = fails(sigaltstack(&other, NULL), EPERM);
    sigprocmask(SIG_BLOCK, NULL, &mask);
    was_masked = sigismember(&mask, sig) && sigismember(&mask, SIGUSR2) && !sigismember(&mask, SIGHUP);
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
    (void)sig, (void)context;
    fault_address = info->si_addr;
    siglongjmp(back, 1);
}

static void on_undefined(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    (void)sig, (void)info;
    uc->uc_mcontext.gregs[REG_RIP] += 2;
    uc->uc_mcontext.gregs[REG_RAX] = 4711;
}

static void clobber(int sig)
{
    (void)sig;
    __asm__ volatile("pxor %%xmm5, %%xmm5\n\tpxor %%xmm0, %%xmm0" : : : "xmm0", "xmm5");
    value++;
}

/* Vector registers live over a system call, and over a handler that comes in it. */
static bool keeps_vectors(void)
{
    uint64_t in[2] = { 0x1122334455667788, 0x99aabbccddeeff00 }, out[2] = { 0, 0 };
    long number = SYS_tgkill, pid = getpid(), tid = syscall(SYS_gettid);
    __asm__ volatile("movdqu %2, %%xmm5\n\tsyscall\n\tmovdqu %%xmm5, %1"
                     : "+a"(number), "=m"(out)
                     : "m"(in), "D"(pid), "S"(tid), "d"(SIGUSR1)
                     : "rcx", "r11", "xmm5", "memory");
    return number == 0 && !memcmp(in, out, sizeof in);
}

static void handlers(void)
{
    struct sigaction action = { .sa_handler = on_stack, .sa_flags = SA_ONSTACK }, old;
    stack_t s = { .ss_sp = stack, .ss_size = sizeof stack };
    void *nothing = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaddset(&action.sa_mask, SIGUSR2);
    check(sigaltstack(&s, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0 && sigaction(SIGUSR1, NULL, &old) == 0, "sigaltstack, sigaction");
    check(old.sa_handler == on_stack && (old.sa_flags & SA_ONSTACK) && sigismember(&old.sa_mask, SIGUSR2), "the action is read back");
    check(raise(SIGUSR1) == 0 && was_on_stack && was_refused, "a handler on the alternate stack");
    check(was_masked, "its mask");
    action = (struct sigaction){ .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    sigaction(SIGSEGV, &action, NULL);
    for (int i = 0; i < 3; i++)
        if (!sigsetjmp(back, 1))
            *(volatile char *)nothing = 1;
    check(fault_address == nothing, "a handler for SIGSEGV that jumps away, three times");
    s.ss_flags = SS_DISABLE;
    check(sigaltstack(&s, NULL) == 0 && sigaltstack(NULL, &s) == 0 && s.ss_flags == SS_DISABLE, "the alternate stack is given up");
    action = (struct sigaction){ .sa_sigaction = on_undefined, .sa_flags = SA_SIGINFO };
    sigaction(SIGILL, &action, NULL);
    long result = 0;
    __asm__ volatile("ud2" : "+a"(result));
    check(result == 4711, "a handler that changes the context");
    action = (struct sigaction){ .sa_handler = clobber };
    sigaction(SIGUSR1, &action, NULL);
    value = 0;
    check(keeps_vectors() && value == 1, "vector registers over a system call and its handler");
    munmap(nothing, PAGE);
}

static void masks(void)
{
    sigset_t all, old, now, pending;
    struct sigaction action = { .sa_handler = clobber };
    sigfillset(&all);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    value = 0;
    check(sigprocmask(SIG_SETMASK, &all, &old) == 0 && sigprocmask(SIG_BLOCK, NULL, &now) == 0, "all signals blocked");
    check(sigismember(&now, SIGSEGV) && sigismember(&now, SIGSYS) && sigismember(&now, SIGUSR1) && !sigismember(&now, SIGKILL), "and read back");
    raise(SIGUSR1);
    raise(SIGSEGV);
    check(value == 0 && sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1) && sigismember(&pending, SIGSEGV), "what is sent is pending");
    sigdelset(&all, SIGUSR1);
    check(fails(sigsuspend(&all), EINTR) && value == 1, "sigsuspend");
    sigprocmask(SIG_SETMASK, &old, NULL);
    check(value == 2, "the rest comes when it is unblocked");
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    raise(SIGUSR1);
    check(fails(ppoll(NULL, 0, NULL, &old), EINTR) && value == 3, "ppoll with a mask");
    sigprocmask(SIG_SETMASK, &old, NULL);
}

static int pipes[2];

static volatile bool is_until_told, is_told;

static void *disturb(void *arg)
{
    pthread_t *who = arg;
    for (int i = 0; i < 50 || (is_until_told && !is_told); i++) {
        pthread_kill(*who, SIGUSR1);
        usleep(1000);
    }
    return write(pipes[1], "x", 1) == 1 ? NULL : arg;
}

static void restarts(void)
{
    struct sigaction action = { .sa_handler = clobber, .sa_flags = SA_RESTART };
    pthread_t me = pthread_self(), other;
    char byte = 0;
    value = 0;
    sigaction(SIGUSR1, &action, NULL);
    is_until_told = false;
    check(pipe(pipes) == 0 && pthread_create(&other, NULL, disturb, &me) == 0, "a thread that sends signals");
    check(read(pipes[0], &byte, 1) == 1 && byte == 'x' && value > 0, "SA_RESTART: read goes on");
    pthread_join(other, NULL);
    action.sa_flags = 0;
    sigaction(SIGUSR1, &action, NULL);
    is_until_told = true, is_told = false;
    pthread_create(&other, NULL, disturb, &me);
    check(fails(read(pipes[0], &byte, 1), EINTR), "without: EINTR");
    is_told = true;
    pthread_join(other, NULL);
    close(pipes[0]), close(pipes[1]);
}

/* ---- threads ---- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int sum;

static void *add(void *arg)
{
    own += (int)(intptr_t)arg;
    pthread_mutex_lock(&mutex);
    sum += own;
    pthread_mutex_unlock(&mutex);
    return arg;
}

static void *read_forever(void *arg)
{
    char byte;
    (void)!read(*(int *)arg, &byte, 1);
    return NULL;
}

static void threads(void)
{
    pthread_t thread[16], sleeper;
    bool is_right = true;
    void *result;
    sum = 0;
    for (int round = 0; round < 20; round++) {
        for (intptr_t i = 0; i < 16; i++)
            is_right &= pthread_create(&thread[i], NULL, add, (void *)i) == 0;
        for (intptr_t i = 0; i < 16; i++)
            is_right &= pthread_join(thread[i], &result) == 0 && result == (void *)i;
    }
    check(is_right && sum == 20 * (16 * 7 + 120), "320 threads begin and end");
    check(pipe(pipes) == 0 && pthread_create(&sleeper, NULL, read_forever, pipes) == 0, "a thread that waits");
    usleep(20000);
    check(pthread_cancel(sleeper) == 0 && pthread_join(sleeper, &result) == 0 && result == PTHREAD_CANCELED, "it is cancelled in its system call");
    close(pipes[0]), close(pipes[1]);
}

/* ---- processes ---- */

extern char **environ;

static int spawn(char *const argv[], int *error)
{
    int status = -1;
    pid_t child;
    *error = posix_spawn(&child, argv[0], NULL, NULL, argv, environ);
    if (!*error)
        waitpid(child, &status, 0);
    return status;
}

static bool forked(bool (*body)(void))
{
    int status = -1;
    pid_t child = fork();
    if (!child)
        _exit(body() ? 0 : 1);
    waitpid(child, &status, 0);
    return child > 0 && status == 0;
}

static void *fork_in_thread(void *arg)
{
    *(bool *)arg = forked(guest_halts);
    return NULL;
}

static bool in_grandchild(void)
{
    return own == 7 && forked(guest_halts);
}

static void guest_processes(void)
{
    pthread_t thread;
    bool is_right = false;
    char command[600];
    int error;
    own = 7;
    check(forked(guest_halts), "fork: a guest in the child");
    check(forked(in_grandchild), "and in its child");
    pthread_create(&thread, NULL, fork_in_thread, &is_right);
    pthread_join(thread, NULL);
    check(is_right, "fork from a thread");
    char *const argv[] = { (char *)(uintptr_t)self, "guest", NULL };
    check(spawn(argv, &error) == 0 && !error, "posix_spawn of a static client");
    snprintf(command, sizeof command, "sh -c '%s guest && exec %s guest'", self, self);
    check(system(command) == 0, "a static client from a shell from a static client");
}

/* Children that a timer interrupts until they are another program: that has nothing pending. */
static bool signals_before_exec(void)
{
    struct sigaction action = { .sa_handler = clobber };
    struct itimerval soon = { { 0, 0 }, { 0, 1 } };
    bool is_right = true;
    sigaction(SIGALRM, &action, NULL);
    for (int i = 0; i < 30; i++) {
        int status = -1;
        pid_t child = fork();
        if (!child) {
            soon.it_value.tv_usec = 1 + i * 20;
            setitimer(ITIMER_REAL, &soon, NULL);
            execl(self, self, "pending", (char *)NULL);
            _exit(1);
        }
        waitpid(child, &status, 0);
        if (status && status != SIGALRM)
            printf("# status %x\n", status);
        is_right &= status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM); /* it came to the new program */
    }
    return is_right;
}

static void processes(void)
{
    char path[500], *const absent[] = { "/no/such/file", NULL }, *const right[] = { "/bin/true", NULL }, *const wrong[] = { "/bin/false", NULL };
    struct sigaction action = { .sa_handler = clobber };
    struct stat a, b;
    int error, status = spawn(absent, &error);
    check(error == ENOENT && status == -1, "posix_spawn of what is not there");
    sigaction(SIGUSR1, &action, NULL);
    check(spawn(right, &error) == 0 && !error, "posix_spawn");
    check(WEXITSTATUS(spawn(wrong, &error)) == 1, "and its status");
    value = 0;
    raise(SIGUSR1);
    check(value == 1, "its parent's handlers stay");
    check(signals_before_exec(), "exec while signals come: none waits, blocked, in the new program");
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    check(n > 0 && stat(path, &a) == 0 && stat(self, &b) == 0 && a.st_ino == b.st_ino, "/proc/self/exe is the client");
    check(stat("/proc/self/exe", &a) == 0 && a.st_ino == b.st_ino, "also to stat");
    pid_t child = vfork();
    if (!child) {
        execl("/proc/self/exe", self, "seven", (char *)NULL);
        _exit(1);
    }
    check(child > 0 && waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7, "vfork and exec of /proc/self/exe");
    child = fork();
    if (!child)
        abort();
    check(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "abort");
    child = fork();
    if (!child) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile char *)(uintptr_t)16 = 1;
    }
    check(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "a fault without a handler");
}

/* ---- memory ---- */

static void memory(void)
{
    char *begin = sbrk(0), *got = sbrk(1 << 20);
    check(got == begin || (got == (void *)-1 && errno == ENOMEM), "sbrk"); /* musl has none */
    long now = syscall(SYS_brk, 0), more = syscall(SYS_brk, now + 300000);
    check(more == now + 300000, "brk grows");
    if (more > now) {
        memset((void *)(uintptr_t)now, 1, 300000);
        check(syscall(SYS_brk, now) == now && syscall(SYS_brk, now + 300000) == now + 300000 && *((char *)(uintptr_t)now + 200000) == 0,
              "shrinks, and is zero when it comes again");
    }
    void *block[64];
    for (int i = 0; i < 64; i++)
        memset(block[i] = malloc((size_t)1 << (i % 20)), i, (size_t)1 << (i % 20));
    bool is_right = true;
    for (int i = 0; i < 64; i++)
        is_right &= *(char *)block[i] == i, free(block[i]);
    check(is_right, "malloc");
    check(getauxval(AT_PAGESZ) == PAGE && getauxval(AT_RANDOM) && !strcmp((const char *)getauxval(AT_EXECFN), self), "the auxiliary vector");
}

/* ---- seccomp ---- */

#define ALLOW(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* What a sandboxed client still needs, by its own account. getppid fails, everything else kills. */
static bool under_filter(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(SYS_read),
        ALLOW(SYS_write),
        ALLOW(SYS_ioctl),
        ALLOW(SYS_openat),
        ALLOW(SYS_open),
        ALLOW(SYS_close),
        ALLOW(SYS_mmap),
        ALLOW(SYS_munmap),
        ALLOW(SYS_rt_sigreturn),
        ALLOW(SYS_exit_group),
        ALLOW(SYS_exit),
        ALLOW(SYS_fcntl),
        ALLOW(SYS_readlink),
        ALLOW(SYS_readlinkat),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = { sizeof code / sizeof code[0], code };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return false;
    return fails(syscall(SYS_getppid), EXDEV) && guest_halts();
}

static volatile int trapped;

static void on_trap(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    const uint8_t *after = info->si_call_addr;
    (void)sig;
    if (info->si_code == 1 && info->si_syscall == SYS_getuid && (uintptr_t)after == (uintptr_t)uc->uc_mcontext.gregs[REG_RIP] && after[-2] == 0x0f &&
        after[-1] == 0x05)
        trapped++;
    uc->uc_mcontext.gregs[REG_RAX] = 4242;
}

/* A filter may ask for a signal, and the handler stands in for the call. */
static bool traps(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getuid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof code / sizeof code[0], code };
    struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
    sigaction(SIGSYS, &action, NULL);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
        return false;
    return syscall(SYS_getuid) == 4242 && syscall(SYS_getuid) == 4242 && trapped == 2;
}

static bool killed_by_filter(void)
{
    under_filter();
    syscall(SYS_getuid);
    return true;
}

static void seccomp(void)
{
    int status;
    check(forked(traps), "a seccomp filter that sends SIGSYS");
    check(forked(under_filter), "a guest under the client's own seccomp filter");
    pid_t child = fork();
    if (!child)
        _exit(killed_by_filter());
    check(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "which still judges the client");
}

int main(int argc, char **argv)
{
    bool is_plain = argc > 1 && !strcmp(argv[1], "plain");
    self = argv[0];
    if (argc > 1 && !strcmp(argv[1], "guest"))
        return !guest_halts();
    if (argc > 1 && !strcmp(argv[1], "pending")) {
        sigset_t pending, mask;
        sigprocmask(SIG_BLOCK, NULL, &mask);
        return sigpending(&pending) || sigismember(&pending, SIGALRM) || sigismember(&mask, SIGALRM);
    }
    if (argc > 1 && !strcmp(argv[1], "seven"))
        return 7;
    for (int round = 0; round < 2; round++) { /* the second time after a VM was there */
        handlers();
        masks();
        restarts();
        threads();
        processes();
        memory();
        if (is_plain)
            break;
        if (round == 0) {
            guests();
            interrupted_guests();
            guest_processes();
            seccomp();
        }
    }
    return has_failed;
}
