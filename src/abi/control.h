/* SPDX-License-Identifier: MIT */
/*
 * The control socket of a process that runs VMs: stream of requests, each answered in order. Both sides are of one machine; structs are those of
 * <vitrine/inspect.h> and below. A version that differs ends the talk at the greeting.
 */
#ifndef VITRINE_ABI_CONTROL_H
#define VITRINE_ABI_CONTROL_H

#include <stdint.h>

#define CONTROL_VERSION 2u
/* Abstract socket address, behind the leading zero byte: this, the pid, '-', and a random number in hexadecimal. */
#define CONTROL_NAME_PREFIX "vitrine/"
#define CONTROL_PAYLOAD_MAX (1u << 20)
#define CONTROL_ARRAY_MAX 4096u /* of slots, vCPUs and pieces in a reply */
#define CONTROL_WHERE_MAX 1023u /* bytes of an endpoint's text */
#define CONTROL_FDS_MAX 250u    /* that come with a reply, as SCM_RIGHTS at its first byte */

enum control_call {
    CONTROL_HELLO,       /* -> control_hello */
    CONTROL_NEXT_VM,     /* control_vm: the VM of the lowest number from it on -> vitrine_vm_info; ENOENT */
    CONTROL_INFO,        /* control_vm -> vitrine_vm_info */
    CONTROL_SLOTS,       /* control_vm -> vitrine_slot[] */
    CONTROL_VCPUS,       /* control_vm -> vitrine_vcpu_info[] */
    CONTROL_GET_REGS,    /* control_vcpu -> vitrine_regs */
    CONTROL_SET_REGS,    /* control_vcpu, vitrine_regs */
    CONTROL_TRANSLATE,   /* control_vcpu with gva -> vitrine_translation */
    CONTROL_READ,        /* control_memory -> bytes */
    CONTROL_WRITE,       /* control_memory, bytes -> control_written */
    CONTROL_PAUSE,       /* control_vm */
    CONTROL_RESUME,      /* control_vm */
    CONTROL_HOLD,        /* control_vm */
    CONTROL_RELEASE,     /* control_vm; EINVAL not held by this connection */
    CONTROL_SUBSCRIBE,   /* control_subscription, vitrine_subscription, vitrine_range[] -> control_subscription */
    CONTROL_UNSUBSCRIBE, /* control_subscription; ENOENT */
    CONTROL_ANSWER,      /* control_answer, vitrine_reply; ENOENT, ESTALE, EINVAL, EBUSY */
    CONTROL_SHARE,       /* control_vm -> control_piece[], and the fds of their files */
    CONTROL_CPU_PAUSE,   /* control_vcpu */
    CONTROL_CPU_RESUME,  /* control_vcpu */
    CONTROL_CPU_HOLD,    /* control_vcpu */
    CONTROL_CPU_RELEASE, /* control_vcpu; EINVAL not held by this connection */
    CONTROL_STEP,        /* control_step -> control_stepped; EINVAL it does not stand still by the user or this connection, EBUSY */
    CONTROL_GET_MSRS,    /* control_vcpu, vitrine_msr[] -> vitrine_msr[] */
    CONTROL_SET_MSRS,    /* control_vcpu, vitrine_msr[] -> vitrine_msr[] */
    CONTROL_GET_XSAVE,   /* control_vcpu -> vitrine_xsave */
    CONTROL_SET_XSAVE,   /* control_vcpu, vitrine_xsave; EINVAL */
    CONTROL_ATTACH,      /* control_vm, text; EINVAL, EEXIST, ENOSPC */
    CONTROL_DETACH,      /* control_vm, text: none is all; ENOENT */
    CONTROL_ENDPOINTS,   /* control_vm -> vitrine_endpoint[] */
    CONTROL_RING,        /* control_vm -> nothing, and two fds: the memory in which this connection is told (introspect/ring.h), the socket that wakes it */
    CONTROL_INJECT,      /* control_vcpu, vitrine_injection; EINVAL, EBUSY */
    CONTROL_VIEW_CREATE, /* control_vm -> control_view; ENOSPC */
    CONTROL_VIEW_DELETE, /* control_view; ENOENT */
    CONTROL_VIEW_SWITCH, /* control_view: a vCPU; ENOENT, ENXIO, EBUSY */
    CONTROL_VIEW_OF,     /* control_view: a vCPU -> control_view; ENXIO */
    CONTROL_VIEW_ACCESS, /* control_view, vitrine_page[]; ENOENT, EINVAL, EFAULT */
    CONTROL_VIEW_PIECES, /* as access, by what is writeable */
    CONTROL_VIEW_PAGES,  /* control_view, vitrine_page[] -> vitrine_page[]; ENOENT, EINVAL */
    CONTROL_VIEW_REMAP,  /* control_view; ENOENT, EINVAL, EFAULT, EBUSY */
    CONTROL_PAGE_ADD,    /* control_view; EINVAL, EEXIST, ENOSPC */
    CONTROL_PAGE_REMOVE, /* control_view; ENOENT */
    CONTROL_ROOM,        /* control_vm: this connection has taken enough for vCPUs that wait for room */
    CONTROL_PAGE_LEND,   /* control_lend, with one fd at its head's first byte; EBADF, EINVAL, EACCES, EEXIST, EBUSY, ENOSPC */
    CONTROL_CALLS
};

/* Before each message; replies repeat call and sequence. */
struct control_head {
    uint32_t bytes; /* that follow */
    uint16_t call;
    uint16_t error; /* of replies: errno, then nothing follows; requests: 0 */
    uint32_t sequence;
};

struct control_hello {
    uint32_t version, pid;
};

struct control_vm {
    uint32_t number;
};

struct control_vcpu {
    uint32_t number, vcpu;
    uint64_t gva;
};

/* Answered when so many instructions were executed, or a short time is over. */
struct control_step {
    uint32_t number, vcpu;
    uint32_t count, timeout_ms;
};

struct control_stepped {
    uint32_t count;
};

struct control_memory {
    uint32_t number;
    uint32_t bytes; /* to read; 0 in a write, whose bytes follow */
    uint64_t gpa;
};

struct control_subscription {
    uint32_t number;       /* of the VM; 0 in a reply */
    uint32_t subscription; /* 0 in the request for one */
};

struct control_answer {
    uint32_t number, vcpu;
    uint64_t question;
};

/* What the call is not about is 0. */
struct control_view {
    uint32_t number, vcpu;
    uint32_t view, pad;
    uint64_t gpa, target;
};

/* A page of a file for the guest. */
struct control_lend {
    uint32_t number, pad;
    uint64_t gpa, offset;
};

struct control_written {
    uint32_t bytes;
};

/* A part of a slot of the normal address space that lies in one file. Pieces of a slot follow each other; what is between them cannot be mapped. */
struct control_piece {
    uint64_t gpa, bytes, host; /* of the slot */
    uint64_t at, length;       /* in the slot */
    uint64_t offset;           /* in the file */
    uint32_t id, flags;        /* of the slot */
    uint32_t file;             /* which of the fds */
    uint32_t is_writeable;
};

#endif
