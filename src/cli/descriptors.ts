/**
 * How many connections the limit of file descriptors allows. Node raises the soft limit to the hard one when it starts.
 * The server keeps some descriptors for other uses: devices, the metadata store, logs, files that it opens for a moment.
 */

import { readFileSync } from 'node:fs';

const KEPT_DESCRIPTORS = 128;

/** @returns at least 32; infinite if the system does not tell the limit. */
export function connectionsMax(limits = readLimits()): number {
  const soft = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
  if (soft === undefined) return Number.POSITIVE_INFINITY;
  return Math.max(32, Number(soft) - KEPT_DESCRIPTORS);
}

function readLimits(): string {
  try {
    return readFileSync('/proc/self/limits', 'utf8');
  } catch {
    return '';
  }
}
