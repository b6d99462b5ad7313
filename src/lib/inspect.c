/* SPDX-License-Identifier: MIT */
/* <vitrine/inspect.h> on a connection: each function is one request of src/abi/control.h, or some. Finding VMs is in inspect_find.c. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/inspect_priv.h"

/* `given` (-1: none) goes with the first byte. */
static bool send_parts(int fd, struct iovec *part, unsigned n, int given)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = { .head = { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
    memcpy(CMSG_DATA(&control.head), &given, sizeof given);
    while (n) {
        struct msghdr message = { .msg_iov = part, .msg_iovlen = n };
        if (given >= 0) {
            message.msg_control = &control;
            message.msg_controllen = sizeof control;
        }
        ssize_t done = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return false;
        given = -1;
        for (; n && (size_t)done >= part->iov_len; part++, n--)
            done -= (ssize_t)part->iov_len;
        if (n) {
            part->iov_base = (char *)part->iov_base + done;
            part->iov_len -= (size_t)done;
        }
    }
    return true;
}

static bool receive(int fd, void *to, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = recv(fd, (char *)to + done, bytes - done, 0);
        if (n > 0) {
            done += (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            errno = n < 0 && errno == EAGAIN ? ETIMEDOUT : ESRCH;
            return false;
        }
    }
    return true;
}

/* The peer ended, or says what cannot be: nothing more can be said over this connection. */
static ssize_t broken(struct vitrine_vm *c, int error)
{
    shutdown(c->fd, SHUT_RDWR);
    errno = error;
    return -1;
}

/* The head of a reply, and what came with its first byte. */
static bool receive_head(int socket, struct control_head *head, int *fd, unsigned *n_fds)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(CONTROL_FDS_MAX * sizeof(int))];
    } control;
    struct iovec part = { head, sizeof *head };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = fd ? sizeof control : 0 };
    ssize_t n;
    do
        n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n <= 0) {
        errno = n < 0 && errno == EAGAIN ? ETIMEDOUT : ESRCH;
        return false;
    }
    struct cmsghdr *c = fd ? CMSG_FIRSTHDR(&message) : NULL;
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        *n_fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fd, CMSG_DATA(c), *n_fds * sizeof(int));
    }
    return receive(socket, (char *)head + n, sizeof *head - (size_t)n);
}

/* The reply to the request of that head. */
static ssize_t receive_reply(struct vitrine_vm *c, const struct control_head *head, void *reply, size_t reply_max, int *fd, unsigned *n_fds)
{
    struct control_head answer;
    if (!receive_head(c->fd, &answer, fd, n_fds))
        return broken(c, errno);
    if (answer.call != head->call || answer.sequence != head->sequence || answer.bytes > reply_max)
        return broken(c, EPROTO);
    if (!receive(c->fd, reply, answer.bytes))
        return broken(c, errno);
    if (!answer.error)
        return answer.bytes;
    errno = answer.error;
    return -1;
}

static ssize_t call_parts(struct vitrine_vm *c, struct control_head *head, struct iovec *more, void *reply, size_t reply_max, int *fd, unsigned *n_fds)
{
    struct iovec part[] = { { head, sizeof *head }, more[0], more[1] };
    return send_parts(c->fd, part, 3, -1) ? receive_reply(c, head, reply, reply_max, fd, n_fds) : broken(c, ESRCH);
}

ssize_t inspect_call(struct vitrine_vm *c, enum control_call call, const void *request, uint32_t bytes, const void *more, uint32_t more_bytes, void *reply,
                     size_t reply_max)
{
    struct control_head head = { .bytes = bytes + more_bytes, .call = (uint16_t)call, .sequence = ++c->sequence };
    struct iovec part[] = { { (void *)(uintptr_t)request, bytes }, { (void *)(uintptr_t)more, more_bytes } };
    return call_parts(c, &head, part, reply, reply_max, NULL, NULL);
}

ssize_t inspect_call_fds(struct vitrine_vm *c, enum control_call call, const void *request, uint32_t bytes, void *reply, size_t reply_max, int *fd,
                         unsigned *n_fds)
{
    struct control_head head = { .bytes = bytes, .call = (uint16_t)call, .sequence = ++c->sequence };
    struct iovec part[] = { { (void *)(uintptr_t)request, bytes }, { NULL, 0 } };
    *n_fds = 0;
    return call_parts(c, &head, part, reply, reply_max, fd, n_fds);
}

/* Root may open any VM; its files are not for every process that runs one. */
static bool is_ours(int fd)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 && (peer.uid == geteuid() || peer.uid == 0);
}

int inspect_call_giving(struct vitrine_vm *c, enum control_call call, const void *request, uint32_t bytes, int fd)
{
    struct control_head head = { .bytes = bytes, .call = (uint16_t)call, .sequence = ++c->sequence };
    struct iovec part[] = { { &head, sizeof head }, { (void *)(uintptr_t)request, bytes } };
    if (fcntl(fd, F_GETFD) < 0)
        return -1;
    if (!is_ours(c->fd)) {
        errno = EPERM;
        return -1;
    }
    if (!send_parts(c->fd, part, 2, fd))
        return (int)broken(c, ESRCH);
    return receive_reply(c, &head, NULL, 0, NULL, NULL) < 0 ? -1 : 0;
}

int inspect_call_exact(struct vitrine_vm *c, enum control_call call, const void *request, uint32_t bytes, void *reply, size_t reply_bytes)
{
    ssize_t n = inspect_call(c, call, request, bytes, NULL, 0, reply, reply_bytes);
    if (n < 0)
        return -1;
    return (size_t)n == reply_bytes ? 0 : (int)broken(c, EPROTO);
}

static int call_vm(struct vitrine_vm *c, enum control_call call)
{
    struct control_vm in = { .number = c->number };
    return inspect_call_exact(c, call, &in, sizeof in, NULL, 0);
}

int vitrine_vm_info(struct vitrine_vm *vm, struct vitrine_vm_info *out)
{
    struct control_vm in = { .number = vm->number };
    struct vitrine_vm_info info;
    if (inspect_call_exact(vm, CONTROL_INFO, &in, sizeof in, &info, sizeof info))
        return -1;
    *out = info;
    return 0;
}

int inspect_call_array(struct vitrine_vm *vm, enum control_call call, void *out, size_t item_bytes, unsigned n)
{
    struct control_vm in = { .number = vm->number };
    uint8_t *all = malloc(CONTROL_PAYLOAD_MAX);
    if (!all)
        return -1;
    ssize_t bytes = inspect_call(vm, call, &in, sizeof in, NULL, 0, all, CONTROL_PAYLOAD_MAX);
    int count = bytes < 0 ? -1 : (int)((size_t)bytes / item_bytes);
    if (count > 0)
        memcpy(out, all, ((unsigned)count < n ? (unsigned)count : n) * item_bytes);
    int saved = errno;
    free(all);
    errno = saved;
    return count;
}

static int by_address(const void *a, const void *b)
{
    const struct vitrine_slot *x = a, *y = b;
    return x->gpa < y->gpa ? -1 : x->gpa > y->gpa ? 1 : x->id < y->id ? -1 : x->id > y->id;
}

int vitrine_vm_slots(struct vitrine_vm *vm, struct vitrine_slot *out, unsigned n)
{
    struct vitrine_slot all[CONTROL_ARRAY_MAX];
    int count = inspect_call_array(vm, CONTROL_SLOTS, all, sizeof *all, CONTROL_ARRAY_MAX);
    if (count <= 0)
        return count;
    qsort(all, (size_t)count, sizeof *all, by_address);
    memcpy(out, all, ((unsigned)count < n ? (unsigned)count : n) * sizeof *all);
    return count;
}

int vitrine_vm_vcpus(struct vitrine_vm *vm, struct vitrine_vcpu_info *out, unsigned n)
{
    return inspect_call_array(vm, CONTROL_VCPUS, out, sizeof *out, n);
}

int vitrine_vcpu_get_regs(struct vitrine_vm *vm, uint32_t vcpu, struct vitrine_regs *out)
{
    struct control_vcpu in = { .number = vm->number, .vcpu = vcpu };
    struct vitrine_regs regs;
    if (inspect_call_exact(vm, CONTROL_GET_REGS, &in, sizeof in, &regs, sizeof regs))
        return -1;
    *out = regs;
    return 0;
}

int vitrine_vcpu_set_regs(struct vitrine_vm *vm, uint32_t vcpu, const struct vitrine_regs *regs)
{
    struct control_vcpu in = { .number = vm->number, .vcpu = vcpu };
    return inspect_call(vm, CONTROL_SET_REGS, &in, sizeof in, regs, sizeof *regs, NULL, 0) < 0 ? -1 : 0;
}

int vitrine_vcpu_translate(struct vitrine_vm *vm, uint32_t vcpu, uint64_t gva, struct vitrine_translation *out)
{
    struct control_vcpu in = { .number = vm->number, .vcpu = vcpu, .gva = gva };
    struct vitrine_translation t;
    if (inspect_call_exact(vm, CONTROL_TRANSLATE, &in, sizeof in, &t, sizeof t))
        return -1;
    *out = t;
    return 0;
}

#define PIECE_BYTES (CONTROL_PAYLOAD_MAX / 2)

ssize_t vitrine_mem_read(struct vitrine_vm *vm, uint64_t gpa, void *to, size_t bytes)
{
    size_t done = 0;
    while (done < bytes) {
        size_t piece = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
        struct control_memory in = { .number = vm->number, .bytes = (uint32_t)piece, .gpa = gpa + done };
        ssize_t n = inspect_call(vm, CONTROL_READ, &in, sizeof in, NULL, 0, (char *)to + done, piece);
        if (n < 0 && !(errno == EFAULT && done))
            return -1;
        done += n > 0 ? (size_t)n : 0;
        if (n < (ssize_t)piece)
            break;
    }
    return (ssize_t)done;
}

ssize_t vitrine_mem_write(struct vitrine_vm *vm, uint64_t gpa, const void *from, size_t bytes)
{
    size_t done = 0;
    while (done < bytes) {
        size_t piece = bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES;
        struct control_memory in = { .number = vm->number, .gpa = gpa + done };
        struct control_written written = { 0 };
        ssize_t n = inspect_call(vm, CONTROL_WRITE, &in, sizeof in, (const char *)from + done, (uint32_t)piece, &written, sizeof written);
        if (n < 0 && !(errno == EFAULT && done))
            return -1;
        done += written.bytes;
        if (n < 0 || written.bytes < piece)
            break;
    }
    return (ssize_t)done;
}

int vitrine_vm_pause(struct vitrine_vm *vm)
{
    return call_vm(vm, CONTROL_PAUSE);
}

int vitrine_vm_resume(struct vitrine_vm *vm)
{
    return call_vm(vm, CONTROL_RESUME);
}

int vitrine_vm_hold(struct vitrine_vm *vm)
{
    return call_vm(vm, CONTROL_HOLD);
}

int vitrine_vm_release(struct vitrine_vm *vm)
{
    return call_vm(vm, CONTROL_RELEASE);
}

void vitrine_vm_close(struct vitrine_vm *vm)
{
    if (!vm)
        return;
    inspect_ring_close(vm->ring);
    close(vm->fd);
    free(vm);
}
