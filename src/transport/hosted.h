/* SPDX-License-Identifier: MIT */
/*
 * The transport for programs that make their system calls without a C library that we could stand in front of: statically linked ones and such. The host
 * program (PROGRAM_HOST) loads such a client into its own address space and has the kernel dispatch the client's system calls to it (Syscall User Dispatch,
 * Linux 5.11). What the files hosted_*.c share. docs/architecture.md, "Statically linked programs".
 *
 * A thread of the client is in the client (its own FS, selector BLOCK) or in the host (FS of our C library, selector ALLOW). It comes to the host by a signal
 * only, on an alternate stack of ours, with all signals blocked except those of HOSTED_SIGNALS.
 */
#ifndef VITRINE_TRANSPORT_HOSTED_H
#define VITRINE_TRANSPORT_HOSTED_H

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

#define HOSTED_STACK_BYTES (256u << 10)

enum { HOSTED_ALLOW, HOSTED_BLOCK };

/* Signals that the kernel must be able to raise at any time: never really blocked, even if the client blocks them. */
#define HOSTED_BIT(sig) (1ull << ((sig)-1))
#define HOSTED_SIGNALS (HOSTED_BIT(SIGSEGV) | HOSTED_BIT(SIGBUS) | HOSTED_BIT(SIGFPE) | HOSTED_BIT(SIGILL) | HOSTED_BIT(SIGSYS))

/* A thread of the client. Touched by itself only. */
struct hosted {
    volatile uint8_t selector;
    bool is_vfork_child;     /* shares its memory, and our thread-local state, with its parent */
    bool has_temporary_mask; /* the last call waits with a mask of its own */
    uint64_t temporary_mask; /* that */
    uint64_t host_fs;
    uint64_t client_fs;                   /* while in the host */
    uint64_t leave_sp;                    /* hosted_leave's; 0: the process's first thread, which has nothing to go back to */
    uint64_t clear_tid;                   /* the client's set_tid_address */
    uint64_t hidden;                      /* of HOSTED_SIGNALS, those that the client takes for blocked */
    stack_t alternate;                    /* the client's sigaltstack */
    uint64_t rseq[3];                     /* the client's registration: address, bytes, signature */
    void *exec_block, *environment_block; /* of a vfork child: its parent frees them */
    volatile bool is_in_exec;
    void *exec_back[5]; /* then: __builtin_setjmp's */
};

/* hosted_gate.S */
extern const uint8_t hosted_gate_begin[], hosted_gate_end[], hosted_stubs[];
void hosted_restorer(void);
void hosted_enter(uint64_t frame, uint64_t *leave_sp);
_Noreturn void hosted_leave(uint64_t sp);
_Noreturn void hosted_start(uint64_t entry, uint64_t sp);
long hosted_vfork(uint64_t flags, uint64_t stack, uint64_t parent_tid, uint64_t child_tid, void *arg, void (*child)(void *));

/* A system call without errno: the result is -Exxx on failure. In the host only. */
static inline long hosted_syscall(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
    register uint64_t r10 __asm__("r10") = d;
    register uint64_t r8 __asm__("r8") = e;
    register uint64_t r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return number;
}

/* hosted_entry.c: the kernel's handler for every signal. */
void hosted_entry_init(void);
void hosted_signal(int sig, siginfo_t *info, void *context);
/* Into the client by a frame that hosted_frame_write made; comes back when the client's thread has ended. */
void hosted_go(struct hosted *t, uint64_t frame);
_Noreturn void hosted_begin(struct hosted *t, uint64_t entry, uint64_t sp);

/* hosted_site.c. The stub for a call that returns to `site`. Async-signal-safe; ends the process if there are more sites than stubs. */
uint64_t hosted_stub_of(uint64_t site);
/* A context inside a stub becomes one at the client's own instruction. False: it was in none. */
bool hosted_site_fix(greg_t *g);

/* hosted_call.c. Results that are no system call's: */
#define HOSTED_PASS (-5000)  /* the kernel is to do it, unchanged */
#define HOSTED_AGAIN (-5001) /* the client is to make it again */
/* True if the call is done or goes to the kernel. Neither thread-local state nor a system call of ours. */
bool hosted_call_quick(struct hosted *t, ucontext_t *uc, const siginfo_t *info);
/* What quick left. In the host. */
void hosted_call_slow(struct hosted *t, ucontext_t *uc, const siginfo_t *info);
/* True if the string at an address of the client's is `want`. */
bool hosted_string_is(uint64_t at, const char *want);

struct hosted_call {
    /* False: not for us. As quick. */
    bool (*is_ours)(const greg_t *g);
    /* One of the two. quick runs with the client's FS: no thread-local state, no system call. */
    long (*quick)(struct hosted *t, ucontext_t *uc);
    long (*slow)(struct hosted *t, ucontext_t *uc);
};

/* hosted_signal.c */
int hosted_signals_init(void);
void hosted_signal_in_host(struct hosted *t, int sig, siginfo_t *info, ucontext_t *uc);
void hosted_signal_in_client(struct hosted *t, int sig, siginfo_t *info, ucontext_t *uc);
/* Ends the process as the signal's default action does. */
void hosted_die(int sig);
long hosted_rt_sigaction(struct hosted *t, ucontext_t *uc);
/* The mask that the client believes in. */
uint64_t hosted_mask_get(const struct hosted *t, const ucontext_t *uc);
void hosted_mask_set(struct hosted *t, ucontext_t *uc, uint64_t mask);

/* hosted_frame.c: signal frames of the client's, and the calls about masks, stacks and returns. */
void hosted_deliver(const struct sigaction *action, int sig, siginfo_t *info, void *context);
/* Copies a kernel's frame below sp, with the registers of `uc`; its address, or 0 if the memory is not there. */
uint64_t hosted_frame_write(uint64_t sp, uint64_t restorer, const siginfo_t *info, const ucontext_t *uc, const stack_t *stack);
long hosted_rt_sigprocmask(struct hosted *t, ucontext_t *uc);
long hosted_rt_sigreturn(struct hosted *t, ucontext_t *uc);
long hosted_sigaltstack(struct hosted *t, ucontext_t *uc);
long hosted_waits_with_mask(struct hosted *t, ucontext_t *uc);

/* hosted_thread.c */
struct hosted *hosted_create(void);
void hosted_destroy(struct hosted *t);
void hosted_stack_of(struct hosted *t, stack_t *stack);
struct hosted *hosted_of(const ucontext_t *uc);
/* True if the context is on the thread's alternate stack: in our code. */
bool hosted_is_on_stack(const struct hosted *t, const ucontext_t *uc);
/* Makes the calling kernel thread one of the client's, in the host. 0 or -errno. */
int hosted_attach(struct hosted *t);
int hosted_dispatch_on(struct hosted *t);
struct hosted_clone {
    uint64_t flags, stack, parent_tid, child_tid, tls;
};
long hosted_thread_start(struct hosted *t, ucontext_t *uc, const struct hosted_clone *c);
/* The frame by which `child` begins where the caller made its call; on the stack `sp`, or the same one. 0: no memory. */
uint64_t hosted_first_frame(struct hosted *child, const ucontext_t *uc, uint64_t sp);
long hosted_exit(struct hosted *t, ucontext_t *uc);
long hosted_set_tid_address(struct hosted *t, ucontext_t *uc);
long hosted_rseq(struct hosted *t, ucontext_t *uc);

/* hosted_process.c */
/* library: LD_PRELOAD's value for the client's children, NULL if it is in the client's environment. */
int hosted_process_init(bool serves_children, const char *library);
bool hosted_is_same_process(void);
long hosted_clone_call(struct hosted *t, ucontext_t *uc);
long hosted_clone3_call(struct hosted *t, ucontext_t *uc);
long hosted_fork_call(struct hosted *t, ucontext_t *uc);
long hosted_vfork_call(struct hosted *t, ucontext_t *uc);
void hosted_exec_again(struct hosted *t);
long hosted_execve(struct hosted *t, ucontext_t *uc);
long hosted_execveat(struct hosted *t, ucontext_t *uc);

/* hosted_file.c: calls on the node, its fds and the client's own file. */
extern const struct hosted_call hosted_file_calls[];
extern const unsigned hosted_n_file_calls;
void hosted_file_init(const char *program);
const char *hosted_file_program(void);

/* hosted_seccomp.c */
bool hosted_is_filter_prctl(const greg_t *g);
bool hosted_is_filter_seccomp(const greg_t *g);
long hosted_filter(struct hosted *t, ucontext_t *uc);

/* hosted_load.c */
struct hosted_image {
    uint64_t entry, bias, phdr, end; /* of the program */
    uint64_t start, base;            /* where it begins, and where its interpreter is: itself and 0 if it has none */
    unsigned n_phdr;
    bool needs_executable_stack;
};
/* 0 or -errno; *why says more. */
int hosted_load(const char *path, struct hosted_image *image, const char **why);
void hosted_brk_init(uint64_t begin);
long hosted_brk(struct hosted *t, ucontext_t *uc);

#endif
