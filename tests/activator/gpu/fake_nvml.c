/* What `activator.gpu.nvml` uses of NVIDIA's library, with GPUs that the environment names: GPUS="97,38,mig,lost". */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };

typedef struct { unsigned int gpu, memory; } utilization;

static const char *gpu(unsigned int index, char *text, size_t size) {
    const char *at = getenv("GPUS");
    for (; at != NULL && index > 0; index--) {
        at = strchr(at, ',');
        at = at == NULL ? NULL : at + 1;
    }
    if (at == NULL) return NULL;
    snprintf(text, size, "%.*s", (int)strcspn(at, ","), at);
    return text;
}

static unsigned int index_of(void *device) { return (unsigned int)(size_t)device - 1; }

int nvmlInit_v2(void) { return getenv("GPUS") == NULL ? DRIVER_NOT_LOADED : SUCCESS; }
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Some Error"; }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    char text[64];
    for (*count = 0; gpu(*count, text, sizeof text) != NULL; (*count)++) {}
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    char text[64];
    if (gpu(index, text, sizeof text) == NULL) return INVALID_ARGUMENT;
    if (strcmp(text, "lost") == 0) return GPU_IS_LOST;
    *device = (void *)(size_t)(index + 1);
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned int length) {
    snprintf(uuid, length, "GPU-%u", index_of(device));
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, utilization *rates) {
    char text[64];
    if (gpu(index_of(device), text, sizeof text) == NULL) return INVALID_ARGUMENT;
    if (strcmp(text, "mig") == 0) return NOT_SUPPORTED;
    rates->gpu = (unsigned int)atoi(text);
    rates->memory = 0;
    return SUCCESS;
}
