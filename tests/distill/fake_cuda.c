/* Has a CUDA build of torch believe in a GPU of compute capability FAKE_SM / 10, where there is neither driver nor GPU.
 *
 * Loaded before libcudart, and found as libcuda, it answers what torch asks on its way to tensors without numbers: devices, properties,
 * streams, events. Nothing is computed. fake_gpu.py runs over it, by tools/gpu_check.sh.
 */
#include <stdlib.h>
#include <string.h>

#define YES(name) int name(void) { return 0; }
YES(cudaSetDevice) YES(cudaDeviceSynchronize) YES(cudaGetLastError) YES(cudaPeekAtLastError)
YES(cudaStreamSynchronize) YES(cudaStreamQuery) YES(cudaStreamWaitEvent) YES(cudaStreamDestroy)
YES(cudaEventRecord) YES(cudaEventRecordWithFlags) YES(cudaEventQuery) YES(cudaEventDestroy)

static char here; /* what handles point to */

int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = *greatest = 0; return 0; }
int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) { *stream = &here; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaEventCreateWithFlags(void **event, unsigned flags) { *event = &here; return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }

enum { PROPERTIES = 960, CAPABILITY = 360 }; /* of cudaDeviceProp, CUDA 12 and 13: bytes at least, and where major and minor stand */

int cudaGetDeviceProperties(char *properties, int device) {
    int sm = atoi(getenv("FAKE_SM")), capability[] = {sm / 10, sm % 10};
    memset(properties, 0, PROPERTIES);
    strcpy(properties, "fake");
    memcpy(properties + CAPABILITY, capability, sizeof capability);
    return 0;
}

int cudaGetDeviceProperties_v2(char *properties, int device) { return cudaGetDeviceProperties(properties, device); }
