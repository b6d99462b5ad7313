/* SPDX-License-Identifier: MIT */
/* KVMI's commands about guest-physical memory. See kvmi.h. */
#include "introspect/memory.h"

#include "front/kvmi/kvmi_priv.h"

#define DEVICES_END_GFN 0x100000u /* 4 GiB: below it devices lie between memory */

static bool is_within_page(const struct kvmi_physical *in)
{
    return in->bytes && in->bytes <= PAGE_BYTES && (in->gpa & PAGE_OFFSET_MASK) + in->bytes <= PAGE_BYTES;
}

int kvmi_read_physical(struct kvmi_arg *a)
{
    const struct kvmi_physical *in = a->in;
    if (!is_within_page(in))
        return -EINVAL;
    if (look_memory_read(a->vm, in->gpa, a->out, in->bytes) < 0)
        return -ENOENT;
    a->out_bytes = (uint32_t)in->bytes;
    return 0;
}

int kvmi_write_physical(struct kvmi_arg *a)
{
    const struct kvmi_physical *in = a->in;
    if (!is_within_page(in) || a->in_bytes < sizeof *in + in->bytes)
        return -EINVAL;
    return look_memory_write(a->vm, in->gpa, in + 1, in->bytes) < 0 ? -ENOENT : 0;
}

static int reply_number(struct kvmi_arg *a, uint64_t value)
{
    *(struct kvmi_number *)a->out = (struct kvmi_number){ value };
    a->out_bytes = sizeof(struct kvmi_number);
    return 0;
}

int kvmi_get_max_gfn(struct kvmi_arg *a)
{
    return reply_number(a, look_memory_end(a->vm) >> PAGE_SHIFT);
}

int kvmi_get_next_available_gfn(struct kvmi_arg *a)
{
    uint64_t gfn = look_memory_end(a->vm) >> PAGE_SHIFT;
    return reply_number(a, gfn < DEVICES_END_GFN ? DEVICES_END_GFN : gfn);
}

int kvmi_query_physical(struct kvmi_arg *a)
{
    uint64_t gfn = ((const struct kvmi_number *)a->in)->value;
    struct memslot slot;
    if (gfn > UINT64_MAX >> PAGE_SHIFT || !look_memory_slot(a->vm, gfn << PAGE_SHIFT, &slot))
        return -ENOENT;
    *(struct kvmi_slot *)a->out = (struct kvmi_slot){ .gfn = slot.gpa >> PAGE_SHIFT, .n_pages = slot.bytes >> PAGE_SHIFT };
    a->out_bytes = sizeof(struct kvmi_slot);
    return 0;
}
