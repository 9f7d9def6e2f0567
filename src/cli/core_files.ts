/**
 * Keys stay out of core files: a program of ours leaves none, and only root may attach to it or read its memory.
 *
 * - Every command may read a key (a key file, the devices), so all do this, at their start.
 * - What a command starts is dumpable again, until it does this itself.
 * - HOLDFAST_CORE=1 in the environment leaves the process as the system has it (docs/OPERATIONS.md).
 */

import { nativeBinding } from '../../native/binding.js';

export function keepSecretsOutOfCores(): void {
  if (process.env.HOLDFAST_CORE === '1') return;
  try {
    nativeBinding().setDumpable(false);
  } catch {
    // Without the addon a process is as the system has it. Commands that need the addon say what is wrong with it.
  }
}
