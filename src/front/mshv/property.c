/* SPDX-License-Identifier: MIT */
/*
 * Partition properties. The device answers for the host, of which it tells the facts; the rest belongs to a partition and is under its lock.
 */
#include <string.h>

#include "base/host.h"
#include "core/time.h"
#include "core/xsave.h"
#include "front/mshv/mshv_priv.h"

#define MSR_ACTION_FAULT 0u
#define MSR_ACTION_IGNORE 1u
#define VENDOR_AMD 0u
#define VENDOR_INTEL 1u

static const struct mshv_property properties[] = {
    { MSHV_PROPERTY_SYNTHETIC_FEATURES, "SYNTHETIC_PROC_FEATURES", true, true },
    { MSHV_PROPERTY_TIME_FREEZE, "TIME_FREEZE", false, true },
    { MSHV_PROPERTY_PROCESSORS_PER_SOCKET, "PROCESSORS_PER_SOCKET", false, true },
    { MSHV_PROPERTY_UNIMPLEMENTED_MSR_ACTION, "UNIMPLEMENTED_MSR_ACTION", false, true },
    { MSHV_PROPERTY_XSAVE_FEATURES, "PROCESSOR_XSAVE_FEATURES", false, false },
    { MSHV_PROPERTY_XSAVE_STATES, "XSAVE_STATES", false, false },
    { MSHV_PROPERTY_MAX_XSAVE_BYTES, "MAX_XSAVE_DATA_SIZE", false, false },
    { MSHV_PROPERTY_FEATURES0, "PROCESSOR_FEATURES0", false, false },
    { MSHV_PROPERTY_FEATURES1, "PROCESSOR_FEATURES1", false, false },
    { MSHV_PROPERTY_PROCESSOR_VENDOR, "PROCESSOR_VENDOR", false, false },
    { MSHV_PROPERTY_PHYSICAL_ADDRESS_WIDTH, "PHYSICAL_ADDRESS_WIDTH", false, false },
    { MSHV_PROPERTY_CLOCK_FREQUENCY, "PROCESSOR_CLOCK_FREQUENCY", false, false },
};
#define N_PROPERTIES (sizeof(properties) / sizeof(properties[0]))

const struct mshv_property *mshv_property_table(unsigned *n)
{
    *n = N_PROPERTIES;
    return properties;
}

static const struct mshv_property *property_find(uint32_t code)
{
    for (unsigned i = 0; i < N_PROPERTIES; i++)
        if (properties[i].code == code)
            return &properties[i];
    return NULL;
}

/* Of a partition, or the host without one. */
static bool processor_fact(const struct mshv_partition *p, uint32_t code, uint64_t *value)
{
    uint64_t bank[MSHV_BANKS];
    mshv_features_enabled(p, bank);
    switch (code) {
    case MSHV_PROPERTY_FEATURES0:
        *value = bank[0];
        return true;
    case MSHV_PROPERTY_FEATURES1:
        *value = bank[1];
        return true;
    case MSHV_PROPERTY_XSAVE_FEATURES:
        *value = bank[MSHV_FEATURE_BANKS];
        return true;
    case MSHV_PROPERTY_XSAVE_STATES:
        *value = mshv_xsave_states(p);
        return true;
    case MSHV_PROPERTY_MAX_XSAVE_BYTES:
        *value = xsave_compact_bytes(mshv_xsave_states(p));
        return true;
    case MSHV_PROPERTY_PROCESSOR_VENDOR:
        *value = host_facts()->is_amd ? VENDOR_AMD : VENDOR_INTEL;
        return true;
    case MSHV_PROPERTY_PHYSICAL_ADDRESS_WIDTH:
        *value = host_facts()->phys_bits;
        return true;
    case MSHV_PROPERTY_CLOCK_FREQUENCY:
        *value = host_facts()->tsc_khz * 1000;
        return true;
    default:
        return false;
    }
}

/* Of the interface that guests of Microsoft's hypervisor see nothing is offered yet, whatever the client allows: so it reads back. */
static uint64_t partition_value(struct mshv_partition *p, uint32_t code)
{
    switch (code) {
    case MSHV_PROPERTY_PROCESSORS_PER_SOCKET:
        return p->processors_per_socket;
    case MSHV_PROPERTY_TIME_FREEZE:
        return atomic_load(&p->vm->freeze.is_on);
    case MSHV_PROPERTY_UNIMPLEMENTED_MSR_ACTION:
        return p->vm->ignores_unknown_msrs ? MSR_ACTION_IGNORE : MSR_ACTION_FAULT;
    default:
        return 0;
    }
}

int mshv_property_get(struct mshv_call_state *s, unsigned rep)
{
    struct mshv_property_in in;
    uint64_t value = 0;
    (void)rep;
    memcpy(&in, s->in, sizeof in);
    if (!processor_fact(s->p, in.code, &value)) {
        if (!s->p || !property_find(in.code))
            return MSHV_STATUS_UNKNOWN_PROPERTY;
        pthread_mutex_lock(&s->p->lock);
        value = partition_value(s->p, in.code);
        pthread_mutex_unlock(&s->p->lock);
    }
    memcpy(s->out, &value, sizeof value);
    return MSHV_STATUS_SUCCESS;
}

/* The only one that is not refused: what of the interface for guests a partition may be given, which is nothing yet. */
int mshv_property_get_ex(struct mshv_call_state *s, unsigned rep)
{
    struct mshv_property_ex_in in;
    const struct mshv_banks none = { .n = 1 };
    (void)rep;
    memcpy(&in, s->in, sizeof in);
    if (in.code == MSHV_PROPERTY_VMM_CAPABILITIES)
        return MSHV_STATUS_ACCESS_DENIED;
    if (in.code != MSHV_PROPERTY_ASSIGNABLE_SYNTHETIC_FEATURES)
        return MSHV_STATUS_UNKNOWN_PROPERTY;
    memcpy(s->out, &none, sizeof none);
    return MSHV_STATUS_SUCCESS;
}

/* The partition's lock is held. */
static int property_apply(struct mshv_partition *p, const struct mshv_property_in *in)
{
    switch (in->code) {
    case MSHV_PROPERTY_PROCESSORS_PER_SOCKET:
        p->processors_per_socket = in->value;
        break;
    case MSHV_PROPERTY_TIME_FREEZE:
        if (in->value > 1)
            return MSHV_STATUS_PROPERTY_VALUE_OUT_OF_RANGE;
        if (in->value != atomic_load(&p->vm->freeze.is_on))
            (in->value ? vm_time_freeze : vm_time_thaw)(p->vm);
        break;
    case MSHV_PROPERTY_UNIMPLEMENTED_MSR_ACTION:
        if (in->value != MSR_ACTION_FAULT && in->value != MSR_ACTION_IGNORE)
            return MSHV_STATUS_PROPERTY_VALUE_OUT_OF_RANGE;
        atomic_store(&p->vm->ignores_unknown_msrs, in->value == MSR_ACTION_IGNORE);
        break;
    default: /* SYNTHETIC_PROC_FEATURES: see partition_value */
        break;
    }
    return MSHV_STATUS_SUCCESS;
}

int mshv_property_set(struct mshv_call_state *s, unsigned rep)
{
    struct mshv_property_in in;
    (void)rep;
    memcpy(&in, s->in, sizeof in);
    const struct mshv_property *property = property_find(in.code);
    if (!property)
        return MSHV_STATUS_UNKNOWN_PROPERTY;
    if (!property->is_settable || (property->is_early && atomic_load(&s->p->is_initialized)))
        return MSHV_STATUS_INVALID_PARTITION_STATE;
    pthread_mutex_lock(&s->p->lock);
    int status = property_apply(s->p, &in);
    pthread_mutex_unlock(&s->p->lock);
    return status;
}
