/** Memory of a process, as the kernel counts it. */

import { readFileSync } from 'node:fs';

/** MiB of a field of /proc/PID/status. */
export function memoryMib(pid: number, field: string): number {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8');
  return Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(text)?.[1]) / 1024;
}
