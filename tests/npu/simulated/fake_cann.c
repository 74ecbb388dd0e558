/* A fake CANN runtime: enough of libascendcl and its companions for the real torch_npu wheel to load and run on a machine
 * without an NPU. Device memory is host memory; no operator is executed here (host_kernels.py does that).
 * Names and signatures follow Huawei's public ACL API (acl/acl_rt.h). Nothing of real hardware is modelled: not its
 * numbers, not its speed, not which operators it has.
 *
 * Time: every device has one queue. A kernel launch lengthens the queue by `op_ns` and returns at once; synchronising
 * sleeps until the queue is empty. So a timer that forgets to synchronise reads too little, as on a real device. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, NO_DEVICE = 107002, NO_MEMORY = 207001 }; /* ACL_ERROR_RT_CONTEXT_NULL, ACL_ERROR_RT_MEMORY_ALLOCATION */
enum { MAX_DEVICES = 8, ALIGNMENT = 512 };

typedef int Status;
typedef void *Handle;

/* Settings and counters that the tests read and write, in the order that machine.py names them. */
static struct {
  int64_t devices;  /* how many NPUs there are */
  int64_t capacity; /* bytes of memory on each */
  int64_t op_ns;    /* nanoseconds that one kernel takes */
  int64_t syncs;    /* how often somebody waited for a device */
  int64_t launches; /* how many kernels were launched */
} settings = {1, (int64_t)1 << 30, 0, 0, 0};

static int64_t used[MAX_DEVICES];      /* bytes allocated */
static int64_t queue_end[MAX_DEVICES]; /* when the last launched kernel will have ended */
static __thread int current = 0;       /* each thread has its own current device */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int64_t idle_at(int device) {
  int64_t present = now();
  return queue_end[device] > present ? queue_end[device] : present;
}

static void sleep_until(int64_t moment) {
  for (int64_t left = moment - now(); left > 0; left = moment - now()) usleep(left / 1000 + 1);
}

/* -- for the tests -------------------------------------------------------------------------------------------------- */

int64_t *fake_cann_cfg(void) { return &settings.devices; }

void fake_cann_launch(int device) {
  pthread_mutex_lock(&lock);
  settings.launches++;
  if (settings.op_ns) queue_end[device] = idle_at(device) + settings.op_ns;
  pthread_mutex_unlock(&lock);
}

void fake_cann_wait(int device) { sleep_until(idle_at(device)); }

/* -- system and devices --------------------------------------------------------------------------------------------- */

Status aclInit(const char *config) { return settings.devices ? OK : NO_DEVICE; }
Status aclFinalize(void) { return OK; }
const char *aclGetRecentErrMsg(void) { return "simulated CANN"; }
const char *aclrtGetSocName(void) { return "Ascend910B1"; } /* torch_npu looks it up in its table, so nothing may be added */

Status aclrtGetDeviceCount(uint32_t *count) {
  *count = settings.devices;
  return settings.devices ? OK : NO_DEVICE;
}

Status aclrtGetDevice(int32_t *device) {
  *device = current;
  return OK;
}

Status aclrtSetDevice(int32_t device) {
  if (device < 0 || device >= settings.devices) return NO_DEVICE;
  current = device;
  return OK;
}

Status aclrtResetDevice(int32_t device) { return OK; }

Status aclrtGetCurrentContext(Handle *context) {
  static int only;
  *context = &only;
  return OK;
}

Status aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active) {
  *active = 1;
  return OK;
}

Status aclrtDeviceGetBareTgid(int32_t *pid) {
  *pid = getpid();
  return OK;
}

Status aclrtDeviceCanAccessPeer(int32_t *can, int32_t device, int32_t peer) {
  *can = 0;
  return OK;
}

Status aclrtGetStreamOverflowSwitch(Handle stream, uint32_t *flag) {
  *flag = 0;
  return OK;
}

Status aclrtGetSysParamOpt(int option, int64_t *value) {
  *value = 0;
  return OK;
}

Status aclrtCtxGetSysParamOpt(int option, int64_t *value) { return aclrtGetSysParamOpt(option, value); }

size_t aclGetCompileoptSize(int option) { return 256; }

Status aclGetCompileopt(int option, char *value, size_t size) {
  if (size) strcpy(value, "disable");
  return OK;
}

/* What a 910B1's data sheet says, so that properties read sensibly; nothing here depends on them. */
static int64_t property(int which) {
  switch (which) {
    case 0: return 24;                 /* ACL_DEVICE_INFO_AI_CORE_NUM */
    case 1: return 48;                 /* ACL_DEVICE_INFO_VECTOR_CORE_NUM */
    case 2: return (int64_t)192 << 20; /* ACL_DEVICE_INFO_L2_SIZE */
    default: return 1;
  }
}

Status aclGetDeviceCapability(uint32_t device, int which, int64_t *value) {
  *value = property(which);
  return OK;
}

Status aclrtGetDeviceInfo(uint32_t device, int which, int64_t *value) {
  *value = property(which);
  return OK;
}

Status aclrtGetDeviceUtilizationRate(int32_t device, int32_t *rates) {
  memset(rates, 0, 4 * sizeof *rates);
  return OK;
}

/* -- memory: a block carries its size and its device in front ------------------------------------------------------- */

typedef struct {
  int64_t size, device;
} Header;

Status aclrtMalloc(Handle *block, size_t size, int policy) {
  Handle raw = NULL;
  *block = NULL;
  pthread_mutex_lock(&lock);
  int fits = used[current] + (int64_t)size <= settings.capacity && !posix_memalign(&raw, ALIGNMENT, size + ALIGNMENT);
  if (fits) {
    *(Header *)raw = (Header){size, current};
    used[current] += size;
    *block = (char *)raw + ALIGNMENT;
  }
  pthread_mutex_unlock(&lock);
  return fits ? OK : NO_MEMORY;
}

Status aclrtMallocAlign32(Handle *block, size_t size, int policy) { return aclrtMalloc(block, size, policy); }

Status aclrtFree(Handle block) {
  if (!block) return OK;
  Header *header = (Header *)((char *)block - ALIGNMENT);
  pthread_mutex_lock(&lock);
  used[header->device] -= header->size;
  pthread_mutex_unlock(&lock);
  free(header);
  return OK;
}

Status aclrtMallocHost(Handle *block, size_t size) { return posix_memalign(block, ALIGNMENT, size ? size : 1) ? NO_MEMORY : OK; }

Status aclrtFreeHost(Handle block) {
  free(block);
  return OK;
}

Status aclrtGetMemInfo(int kind, size_t *free_bytes, size_t *total) {
  int64_t left = settings.capacity - used[current];
  *free_bytes = left > 0 ? left : 0;
  *total = settings.capacity;
  return OK;
}

Status aclrtMemcpy(Handle to, size_t room, const Handle from, size_t size, int kind) {
  fake_cann_wait(current);
  memmove(to, from, size);
  return OK;
}

Status aclrtMemcpyAsync(Handle to, size_t room, const Handle from, size_t size, int kind, Handle stream) {
  memmove(to, from, size);
  return OK;
}

Status aclrtMemset(Handle to, size_t room, int value, size_t size) {
  memset(to, value, size);
  return OK;
}

Status aclrtMemsetAsync(Handle to, size_t room, int value, size_t size, Handle stream) { return aclrtMemset(to, room, value, size); }

/* -- streams and events: an event is the moment at which the queue it was recorded in will have come to it ----------- */

static Status create(Handle *object) {
  *object = calloc(1, 64);
  return *object ? OK : NO_MEMORY;
}

Status aclrtCreateStream(Handle *stream) { return create(stream); }
Status aclrtCreateStreamWithConfig(Handle *stream, uint32_t priority, uint32_t flag) { return create(stream); }
Status aclrtDestroyStream(Handle stream) { return OK; }
Status aclrtDestroyStreamForce(Handle stream) { return OK; }

Status aclrtStreamQuery(Handle stream, int *status) {
  *status = queue_end[current] <= now() ? 0 : 1;
  return OK;
}

Status aclrtSynchronizeDevice(void) {
  settings.syncs++;
  fake_cann_wait(current);
  return OK;
}

Status aclrtSynchronizeDeviceWithTimeout(int32_t milliseconds) { return aclrtSynchronizeDevice(); }
Status aclrtSynchronizeStream(Handle stream) { return aclrtSynchronizeDevice(); }
Status aclrtSynchronizeStreamWithTimeout(Handle stream, int32_t milliseconds) { return aclrtSynchronizeDevice(); }

Status aclrtCreateEventWithFlag(Handle *event, uint32_t flag) { return create(event); }
Status aclrtCreateEventExWithFlag(Handle *event, uint32_t flag) { return create(event); }

Status aclrtDestroyEvent(Handle event) {
  free(event);
  return OK;
}

Status aclrtRecordEvent(Handle event, Handle stream) {
  *(int64_t *)event = idle_at(current);
  return OK;
}

Status aclrtSynchronizeEvent(Handle event) {
  settings.syncs++;
  sleep_until(*(int64_t *)event);
  return OK;
}

Status aclrtEventElapsedTime(float *milliseconds, Handle begin, Handle end) {
  *milliseconds = (*(int64_t *)end - *(int64_t *)begin) / 1e6;
  return OK;
}

Status aclrtQueryEventStatus(Handle event, int *status) {
  *status = *(int64_t *)event <= now();
  return OK;
}

Status aclrtQueryEventWaitStatus(Handle event, int *status) {
  *status = 1;
  return OK;
}

/* -- everything else that torch_npu links to or looks up: succeeds and does nothing ---------------------------------- */

#define NOTHING(function) \
  Status function(void) { return OK; }
#include "nothing.h"
