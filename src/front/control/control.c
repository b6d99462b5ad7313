/* SPDX-License-Identifier: MIT */
/*
 * The table of control calls, the one way through it, and the calls about memory. See control.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/vm.h"
#include "front/control/control_priv.h"
#include "introspect/memory.h"

static int control_hello_call(struct control_arg *a)
{
    *(struct control_hello *)a->out = (struct control_hello){ .version = CONTROL_VERSION, .pid = (uint32_t)getpid() };
    a->out_bytes = sizeof(struct control_hello);
    return 0;
}

/* ---- memory ---- */

static int control_read(struct control_arg *a)
{
    const struct control_memory *m = a->in;
    if (m->bytes > CONTROL_PAYLOAD_MAX)
        return -E2BIG;
    ssize_t n = look_memory_read(a->vm, m->gpa, a->out, m->bytes);
    if (n < 0)
        return (int)n;
    a->out_bytes = (uint32_t)n;
    return 0;
}

static int control_write(struct control_arg *a)
{
    const struct control_memory *m = a->in;
    ssize_t n = look_memory_write(a->vm, m->gpa, m + 1, a->in_bytes - sizeof *m);
    if (n < 0)
        return (int)n;
    ((struct control_written *)a->out)->bytes = (uint32_t)n;
    a->out_bytes = sizeof(struct control_written);
    return 0;
}

/* ---- the table ---- */

enum control_about { ABOUT_NOTHING, ABOUT_NUMBER, ABOUT_VM, ABOUT_VCPU };

/* clang-format off */
static const struct control_entry {
    enum control_about about;
    uint32_t least_bytes;
    bool takes_more;
    int (*handle)(struct control_arg *a);
} entries[CONTROL_CALLS] = {
    [CONTROL_HELLO]     = { ABOUT_NOTHING, 0,                                                          false, control_hello_call },
    [CONTROL_NEXT_VM]   = { ABOUT_NUMBER,  sizeof(struct control_vm),                                  false, control_next_vm },
    [CONTROL_INFO]      = { ABOUT_VM,      sizeof(struct control_vm),                                  false, control_info },
    [CONTROL_SLOTS]     = { ABOUT_VM,      sizeof(struct control_vm),                                  false, control_slots },
    [CONTROL_VCPUS]     = { ABOUT_VM,      sizeof(struct control_vm),                                  false, control_vcpus },
    [CONTROL_GET_REGS]  = { ABOUT_VCPU,    sizeof(struct control_vcpu),                                false, control_get_regs },
    [CONTROL_SET_REGS]  = { ABOUT_VCPU,    sizeof(struct control_vcpu) + sizeof(struct vitrine_regs),  false, control_set_regs },
    [CONTROL_TRANSLATE] = { ABOUT_VCPU,    sizeof(struct control_vcpu),                                false, control_translate },
    [CONTROL_READ]      = { ABOUT_VM,      sizeof(struct control_memory),                              false, control_read },
    [CONTROL_WRITE]     = { ABOUT_VM,      sizeof(struct control_memory),                              true,  control_write },
    [CONTROL_PAUSE]     = { ABOUT_VM,      sizeof(struct control_vm),                                  false, control_pause },
    [CONTROL_RESUME]    = { ABOUT_VM,      sizeof(struct control_vm),                                  false, control_resume },
    [CONTROL_HOLD]      = { ABOUT_VM,      sizeof(struct control_vm),                                  false, control_hold_call },
    [CONTROL_RELEASE]   = { ABOUT_VM,      sizeof(struct control_vm),                                  false, control_release },
    [CONTROL_SUBSCRIBE] = { ABOUT_VM,      sizeof(struct control_subscription) + sizeof(struct vitrine_subscription),                           true,  control_subscribe_call },
    [CONTROL_UNSUBSCRIBE] = { ABOUT_VM,    sizeof(struct control_subscription),                        false, control_unsubscribe },
    [CONTROL_ANSWER]    = { ABOUT_VM,      sizeof(struct control_answer) + sizeof(struct vitrine_reply), false, control_answer_call },
    [CONTROL_RING]      = { ABOUT_VM,      sizeof(struct control_vm),                                  false, control_ring },
    [CONTROL_ROOM]      = { ABOUT_VM,      sizeof(struct control_vm),                                  false, control_room },
    [CONTROL_SHARE]     = { ABOUT_VM,      sizeof(struct control_vm),                                  false, control_share },
    [CONTROL_CPU_PAUSE]   = { ABOUT_VCPU, sizeof(struct control_vcpu),                                false, control_pause_vcpu },
    [CONTROL_CPU_RESUME]  = { ABOUT_VCPU, sizeof(struct control_vcpu),                                false, control_resume_vcpu },
    [CONTROL_CPU_HOLD]    = { ABOUT_VCPU, sizeof(struct control_vcpu),                                false, control_hold_call },
    [CONTROL_CPU_RELEASE] = { ABOUT_VCPU, sizeof(struct control_vcpu),                                false, control_release },
    [CONTROL_STEP]         = { ABOUT_VCPU, sizeof(struct control_step),                                false, control_step_call },
    [CONTROL_GET_MSRS]     = { ABOUT_VCPU, sizeof(struct control_vcpu),                                true,  control_get_msrs },
    [CONTROL_SET_MSRS]     = { ABOUT_VCPU, sizeof(struct control_vcpu),                                true,  control_set_msrs },
    [CONTROL_GET_XSAVE]    = { ABOUT_VCPU, sizeof(struct control_vcpu),                                false, control_get_xsave },
    [CONTROL_SET_XSAVE]    = { ABOUT_VCPU, sizeof(struct control_vcpu) + sizeof(struct vitrine_xsave), false, control_set_xsave },
    [CONTROL_ATTACH]    = { ABOUT_VM,      sizeof(struct control_vm),                                  true,  control_attach },
    [CONTROL_DETACH]    = { ABOUT_VM,      sizeof(struct control_vm),                                  true,  control_detach },
    [CONTROL_ENDPOINTS] = { ABOUT_VM,      sizeof(struct control_vm),                                  false, control_endpoints_call },
    [CONTROL_INJECT]    = { ABOUT_VCPU,    sizeof(struct control_vcpu) + sizeof(struct vitrine_injection), false, control_inject },
    [CONTROL_VIEW_CREATE]    = { ABOUT_VM, sizeof(struct control_vm),                                  false, control_view_create },
    [CONTROL_VIEW_DELETE]    = { ABOUT_VM, sizeof(struct control_view),                                false, control_view_destroy },
    [CONTROL_VIEW_SWITCH]    = { ABOUT_VM, sizeof(struct control_view),                                false, control_view_switch },
    [CONTROL_VIEW_OF]        = { ABOUT_VM, sizeof(struct control_view),                                false, control_view_of },
    [CONTROL_VIEW_ACCESS]    = { ABOUT_VM, sizeof(struct control_view),                                true,  control_view_access },
    [CONTROL_VIEW_PIECES]    = { ABOUT_VM, sizeof(struct control_view),                                true,  control_view_writeable },
    [CONTROL_VIEW_PAGES]     = { ABOUT_VM, sizeof(struct control_view),                                true,  control_view_pages },
    [CONTROL_VIEW_REMAP]     = { ABOUT_VM, sizeof(struct control_view),                                false, control_view_remap },
    [CONTROL_PAGE_ADD]       = { ABOUT_VM, sizeof(struct control_view),                                false, control_page_add },
    [CONTROL_PAGE_REMOVE]    = { ABOUT_VM, sizeof(struct control_view),                                false, control_page_remove },
    [CONTROL_PAGE_LEND]      = { ABOUT_VM, sizeof(struct control_lend),                                false, control_page_lend },
};
/* clang-format on */
_Static_assert(offsetof(struct control_view, number) == 0 && offsetof(struct control_subscription, number) == 0 &&
                   offsetof(struct control_answer, number) == 0 && offsetof(struct control_vm, number) == 0 && offsetof(struct control_vcpu, number) == 0 &&
                   offsetof(struct control_memory, number) == 0 && offsetof(struct control_lend, number) == 0 && offsetof(struct control_step, number) == 0 &&
                   offsetof(struct control_step, vcpu) == offsetof(struct control_vcpu, vcpu),
               "requests about a VM begin with its number, those about a vCPU go on with its");

static struct vcpu *find_vcpu(struct vm *vm, uint32_t id)
{
    return id < VM_VCPU_IDS ? vm_vcpu(vm, id) : NULL;
}

static int handle_about(const struct control_entry *e, struct control_arg *a)
{
    uint32_t number;
    if (e->about == ABOUT_NOTHING || e->about == ABOUT_NUMBER)
        return e->handle(a);
    memcpy(&number, a->in, sizeof number);
    a->vm = vm_find_exactly(number);
    if (!a->vm)
        return -ESRCH;
    int r = 0;
    if (e->about == ABOUT_VCPU && !(a->vcpu = find_vcpu(a->vm, ((const struct control_vcpu *)a->in)->vcpu)))
        r = -ENOENT;
    if (!r)
        r = e->handle(a);
    vm_put(a->vm);
    return r;
}

/* Those that nobody fetched. */
static void control_close_fds(struct control_session *s)
{
    while (s->n_fds)
        close(s->fd[--s->n_fds]);
}

static void control_close_given(struct control_session *s)
{
    if (s->given_fd >= 0)
        close(s->given_fd);
    s->given_fd = -1;
}

void control_give_fd(struct control_session *s, int fd)
{
    control_close_given(s);
    s->given_fd = fd;
}

unsigned control_take_fds(struct control_session *s, int fd[CONTROL_FDS_MAX])
{
    unsigned n = s->n_fds;
    memcpy(fd, s->fd, n * sizeof *fd);
    s->n_fds = 0;
    return n;
}

void control_handle(struct control_session *s, const struct control_head *head, const void *payload, struct control_head *reply, void *out)
{
    control_close_fds(s);
    struct control_arg a = { .session = s, .in = payload, .in_bytes = head->bytes, .out = out };
    const struct control_entry *e = head->call < CONTROL_CALLS ? &entries[head->call] : NULL;
    int r = -ENOSYS;
    if (e)
        r = head->bytes == e->least_bytes || (e->takes_more && head->bytes > e->least_bytes) ? handle_about(e, &a) : -EINVAL;
    control_close_given(s);
    *reply = (struct control_head){ .bytes = r ? 0 : a.out_bytes, .call = head->call, .error = (uint16_t)-r, .sequence = head->sequence };
}

struct control_session *control_session_create(void)
{
    struct control_session *s = calloc(1, sizeof *s);
    if (s)
        s->given_fd = -1;
    return s;
}

void control_session_destroy(struct control_session *s)
{
    control_ears_close(s);
    control_close_fds(s);
    control_close_given(s);
    control_holds_end(s);
    free(s);
}
