// Runs a .tflite on one image with LiteRT's C interface: the program that qemu-aarch64 runs (abpn_lib/arm64.py).
//
//     guest MODEL MODE HEIGHT WIDTH OUTPUT-BYTES TIMES  < pixels  > pixels
//     guest                                             the CPU that it runs on, in one line
//
// MODE is LiteRT's CPU kernel mode: 0 XNNPACK, 2 built-in. The wheel brings the shared library and no headers, so the
// functions are declared here; handles are pointers. Source: litert/c/*.h in google-ai-edge/LiteRT, version 2.3.0.
#include <gnu/libc-version.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

typedef void *Handle;
// A LiteRtRankedTensorType, never looked into but for its first field: room enough for any version's layout.
typedef struct {
  int element;
  unsigned char layout[508];
} TensorType;

int LiteRtCreateEnvironment(int, const void *, Handle *);
int LiteRtCreateModelFromFile(Handle, const char *, Handle *);
int LiteRtCreateOptions(Handle *);
int LiteRtSetOptionsHardwareAccelerators(Handle, int);
int LiteRtCreateOpaqueOptions(const char *, void *, void (*)(void *), Handle *);
int LiteRtAddOpaqueOptions(Handle, Handle);
int LiteRtCreateCompiledModel(Handle, Handle, Handle, Handle *);
int LiteRtCompiledModelResizeInputTensor(Handle, size_t, size_t, const int *, size_t);
int LiteRtGetCompiledModelInputTensorLayout(Handle, size_t, size_t, void *);
int LiteRtGetCompiledModelOutputTensorLayouts(Handle, size_t, size_t, void *, bool);
int LiteRtGetModelSubgraph(Handle, size_t, Handle *);
int LiteRtGetSubgraphInput(Handle, size_t, Handle *);
int LiteRtGetSubgraphOutput(Handle, size_t, Handle *);
int LiteRtGetRankedTensorType(Handle, void *);
int LiteRtCreateTensorBufferFromHostMemory(const void *, void *, size_t, void (*)(void *), Handle *);
int LiteRtRunCompiledModel(Handle, size_t, size_t, Handle *, size_t, Handle *);

#define CPU_ACCELERATOR 1
#define UINT8 3
#define ALIGNMENT 64

static void fail(const char *what, int status) {
  fprintf(stderr, "%s (status %d)\n", what, status);
  // At once: the libraries' own threads may be in any state.
  _Exit(1);
}

#define TRY(call)                    \
  do {                               \
    int status = (call);             \
    if (status) fail(#call, status); \
  } while (0)

static void describe_cpu(void) {
  unsigned long midr = 0, features = 0, more = 0;
#ifdef __aarch64__  // the tests build it for other processors too
  __asm__("mrs %0, midr_el1" : "=r"(midr));
  features = getauxval(AT_HWCAP);
  more = getauxval(AT_HWCAP2);
#endif
  printf("midr %08lx hwcap %lx hwcap2 %lx libc %s\n", midr, features, more, gnu_get_libc_version());
}

static Handle compiled(const char *path, int mode, Handle *model) {
  Handle environment, options, cpu, made;
  char text[64];
  TRY(LiteRtCreateEnvironment(0, NULL, &environment));
  TRY(LiteRtCreateModelFromFile(environment, path, model));
  TRY(LiteRtCreateOptions(&options));
  TRY(LiteRtSetOptionsHardwareAccelerators(options, CPU_ACCELERATOR));
  snprintf(text, sizeof text, "num_threads = 1\nkernel_mode = %d\n", mode);
  TRY(LiteRtCreateOpaqueOptions("xnnpack", strdup(text), free, &cpu));
  TRY(LiteRtAddOpaqueOptions(options, cpu));
  TRY(LiteRtCreateCompiledModel(environment, *model, options, &made));
  return made;
}

static unsigned char *aligned(size_t bytes, size_t *room) {
  *room = (bytes / ALIGNMENT + 2) * ALIGNMENT;  // kernels may read past the end
  unsigned char *memory = aligned_alloc(ALIGNMENT, *room);
  if (!memory) fail("no memory", 0);
  return memset(memory, 0, *room);
}

int main(int argc, char **argv) {
  if (argc == 1) {
    describe_cpu();
    return 0;
  }
  if (argc != 7) fail("six arguments are needed", argc - 1);
  int shape[4] = {1, atoi(argv[3]), atoi(argv[4]), 3}, times = atoi(argv[6]);
  size_t in_bytes = (size_t)shape[1] * shape[2] * 3, out_bytes = strtoull(argv[5], NULL, 10), in_room, out_room;
  Handle model, graph, in_tensor, out_tensor, in, out, made = compiled(argv[1], atoi(argv[2]), &model);
  TensorType in_type = {0}, out_type = {0};

  TRY(LiteRtCompiledModelResizeInputTensor(made, 0, 0, shape, 4));
  TRY(LiteRtGetModelSubgraph(model, 0, &graph));
  TRY(LiteRtGetSubgraphInput(graph, 0, &in_tensor));
  TRY(LiteRtGetSubgraphOutput(graph, 0, &out_tensor));
  TRY(LiteRtGetRankedTensorType(in_tensor, &in_type));
  TRY(LiteRtGetRankedTensorType(out_tensor, &out_type));
  if (in_type.element != UINT8 || out_type.element != UINT8) fail("not uint8 in and out", in_type.element);
  // The file's layouts are of any size; those of the size asked for:
  TRY(LiteRtGetCompiledModelInputTensorLayout(made, 0, 0, in_type.layout));
  TRY(LiteRtGetCompiledModelOutputTensorLayouts(made, 0, 1, out_type.layout, true));

  unsigned char *pixels = aligned(in_bytes, &in_room), *result = aligned(out_bytes, &out_room);
  if (fread(pixels, 1, in_bytes, stdin) != in_bytes) fail("too few pixels came in", 0);
  TRY(LiteRtCreateTensorBufferFromHostMemory(&in_type, pixels, in_room, NULL, &in));
  // Some graphs compute their output's size, which LiteRT then knows only as it runs: our memory is large enough.
  TRY(LiteRtCreateTensorBufferFromHostMemory(&out_type, result, out_room, NULL, &out));
  for (int i = 0; i < times; i++) TRY(LiteRtRunCompiledModel(made, 0, 1, &in, 1, &out));

  if (fwrite(result, 1, out_bytes, stdout) != out_bytes || fflush(stdout)) fail("the pixels could not be written", 0);
  _Exit(0);
}
