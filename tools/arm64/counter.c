// A plugin for qemu's user mode that counts the guest's executed instructions (abpn_lib/arm64.py).
//
// The few functions that it uses are declared here, so that it builds without qemu's sources. They are the same in
// qemu 6 to 10; what differs is the version that a plugin has to name. Source: include/qemu/qemu-plugin.h in QEMU.
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef uint64_t Id;
struct qemu_plugin_tb;
enum { NO_REGISTERS = 0 };

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
void qemu_plugin_register_vcpu_tb_trans_cb(Id, void (*)(Id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_atexit_cb(Id, void (*)(Id, void *), void *);
void qemu_plugin_outs(const char *);

__attribute__((visibility("default"))) int qemu_plugin_version = PLUGIN_VERSION;

static uint64_t executed;

static void block_runs(unsigned cpu, void *instructions) {
  (void)cpu;
  // Atomic, since LiteRT's threads may run side by side.
  __atomic_fetch_add(&executed, (uint64_t)(uintptr_t)instructions, __ATOMIC_RELAXED);
}

static void block_is_translated(Id id, struct qemu_plugin_tb *block) {
  (void)id;
  void *instructions = (void *)(uintptr_t)qemu_plugin_tb_n_insns(block);
  qemu_plugin_register_vcpu_tb_exec_cb(block, block_runs, NO_REGISTERS, instructions);
}

static void guest_has_ended(Id id, void *unused) {
  (void)id;
  (void)unused;
  char line[64];
  snprintf(line, sizeof line, "instructions: %" PRIu64 "\n", executed);
  qemu_plugin_outs(line);
}

__attribute__((visibility("default"))) int qemu_plugin_install(Id id, const void *info, int argc, char **argv) {
  (void)info;
  (void)argc;
  (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, block_is_translated);
  qemu_plugin_register_atexit_cb(id, guest_has_ended, NULL);
  return 0;
}
